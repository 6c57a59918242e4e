"""Facts about the engines behind Triton's backends for language models: which arguments each of their versions takes."""
