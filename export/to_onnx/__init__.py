"""Checkpoint to checked ONNX graphs, installed. Uses parity, fp8, checkpoint and graphs."""
