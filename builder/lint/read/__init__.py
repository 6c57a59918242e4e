"""Files of a model repository → values that rules judge: configs, ONNX surfaces, engines' sidecars."""
