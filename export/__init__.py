"""Export: checkpoint to torch module to ONNX graph, to TensorRT plan, to model repository. Not needed to serve."""
