"""A torch module and its example inputs → ONNX by one of torch's exporters, with names and dimensions as asked."""
