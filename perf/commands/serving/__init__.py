"""Servers: started, looked at, asked once."""
