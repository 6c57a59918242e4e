"""run.jsonl while it grows → how the race stands, for the terminal and for the page of --watch."""
