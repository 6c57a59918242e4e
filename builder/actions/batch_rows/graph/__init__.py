"""An ONNX graph → which of its operators read other rows of the batch, told from the graph and from values inside it."""
