"""One file a step of the GPU check."""
