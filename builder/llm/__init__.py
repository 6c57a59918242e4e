"""Language models: what their files say, what their engines take, and what their backends read."""
