"""Benchmarks: they print numbers and never fail on time."""
