"""Triton's generate extension over HTTP: payload → JSON request → an answer of many events, each counted and timed."""
