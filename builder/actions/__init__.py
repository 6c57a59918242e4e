"""What a build does, one folder an action: files in → files out, in a process of its own; nothing here knows of a spec."""
