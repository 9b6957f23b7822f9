"""Build of TensorRT plans from ONNX graphs. Uses to_onnx, placement, checkpoint and graphs."""
