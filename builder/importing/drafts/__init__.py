"""One file or callable → its entry in a first spec: what it is, what its tensors are, what of that a build accepts."""
