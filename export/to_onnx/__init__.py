"""Export of a checkpoint to checked, installed ONNX graphs. Uses parity, quantisation, checkpoint and graphs."""
