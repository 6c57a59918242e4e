"""What is known so far → a journal on disk → the output, by rename."""
