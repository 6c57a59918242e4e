"""What the parameters of all commands have in common: the words in help, completion, and the flags that every command has."""
