"""A server on this machine → CPU, memory, GPUs, energy and its own counters over a stretch of time."""
