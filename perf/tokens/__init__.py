"""A language model's server, prompts and a load → time to the first token, between tokens, tokens a second."""
