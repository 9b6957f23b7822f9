"""Export: checkpoint to torch module to ONNX graph, to TensorRT plan, to model repository. Not needed to serve.

Start with `__main__.py`, then read the folders in the order graphs, checkpoint, to_onnx, placement, to_plan.
"""
