"""One file a kind of source: what the user has → ONNX and a way to run the source."""
