"""The embedded server's own Python environment, made once and proven."""
