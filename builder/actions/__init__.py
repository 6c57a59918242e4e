"""What a build does, one folder an action: what it is found by, what it runs, what it tells of it."""
