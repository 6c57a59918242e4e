"""A variant of a language model: its weights, and how its answers stand against the source's."""
