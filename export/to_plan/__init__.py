"""ONNX graphs to TensorRT plans. Uses to_onnx, placement, checkpoint and graphs."""
