"""SPEC → PLAN → ARTIFACTS → REPOSITORY: the builder starts no server and measures nothing."""
