"""What `check --deep`, `init` and `build` learn of ONNX models by running them, in processes of their own."""
