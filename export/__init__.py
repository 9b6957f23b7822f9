"""The engine's way: checkpoint to torch module to ONNX (to TensorRT plan) to model repository. Not needed to serve."""
