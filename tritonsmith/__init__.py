"""From one spec file to a verified, tuned, live Triton model repository."""

__version__ = "0.1.0"
