"""This machine → what of the work it can do, what it lacks, and the command that mends each."""
