"""A file → its rows as the model takes them, or what is wrong with each line."""
