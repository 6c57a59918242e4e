"""A Triton model repository or one config.pbtxt → Findings: what Triton would refuse or silently ignore."""
