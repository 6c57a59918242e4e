"""ONNX files, model repositories, configs of a live server → the text of a first models.yaml."""
