"""Latencies and answers in time order → what is to be said of their course: drift, modes, stalls, the queue."""
