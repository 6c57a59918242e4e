"""Two runs → what changed between them, and whether a gate holds; pure."""
