"""A target and a plan → rows of requests, closed loop and open loop, inside one event loop."""
