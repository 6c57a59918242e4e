"""ONNX + optimization profiles → an engine, one file a compiler; and what they share."""
