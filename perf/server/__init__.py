"""A live Triton: start one, talk to it, stop it."""
