"""An exported model run in ONNX Runtime → whether it answers as its source does, at sizes that were promised."""
