"""The kinds of server: a table, and how each is started or attached to."""
