"""Build of TensorRT plans from ONNX graphs. Imports to_onnx, placement, checkpoint and graphs."""
