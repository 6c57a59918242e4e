"""ServerSpec → a process of ours or a server that runs already, one file a way to get there."""
