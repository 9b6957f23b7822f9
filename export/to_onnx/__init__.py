"""Export of a checkpoint to checked, installed ONNX graphs. Imports parity, quantisation, checkpoint and graphs."""
