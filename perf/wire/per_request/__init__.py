"""A request's bytes → the bytes that this request alone has: its place in a sequence, values that no other has."""
