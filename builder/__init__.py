"""SPEC → PLAN → ARTIFACTS → REPOSITORY: the builder starts no server and measures nothing."""

__version__ = "0.1.0"
