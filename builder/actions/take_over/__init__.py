"""A source that is served as it is (a model's directory, a Python model, an ensemble's steps) → its files, taken over."""
