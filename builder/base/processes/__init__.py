"""Work → a process of its own that cannot outlive this one, within its turn and its time."""
