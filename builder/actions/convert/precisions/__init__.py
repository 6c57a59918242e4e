"""An fp32 ONNX model → the same function at a precision, one file a way of doing it."""
