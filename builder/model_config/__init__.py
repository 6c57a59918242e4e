"""(a model of the spec, its tensors) → Triton's ModelConfig → config.pbtxt."""
