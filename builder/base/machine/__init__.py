"""This machine and what runs on servers → versions, GPUs, places."""
