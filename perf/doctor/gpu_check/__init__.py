"""A machine with a GPU → what of tritonsmith really works on it: a table of steps, each in a process of its own."""
