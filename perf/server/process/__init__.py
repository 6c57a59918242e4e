"""A server's process, its command line and its ports; the sole owner of both."""
