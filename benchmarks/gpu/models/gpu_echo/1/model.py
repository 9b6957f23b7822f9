"""Test model: returns twice its input in this instance's GPU memory, and whether the input came in GPU memory."""

from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: Any) -> None:
        on_gpu = args["model_instance_kind"] == "GPU"
        self.device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        torch.zeros(1, device=self.device)  # creates the CUDA context at load, as the served models do

    def execute(self, requests: Any) -> list[Any]:
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "x")) for request in requests]

    def answer(self, x: Any) -> Any:
        doubled = 2 * torch.utils.dlpack.from_dlpack(x.to_dlpack()).to(self.device)
        came_on_gpu = np.array([not x.is_cpu()], dtype=np.int32)
        tensors = [pb_utils.Tensor.from_dlpack("y", doubled), pb_utils.Tensor("came_on_gpu", came_on_gpu)]
        return pb_utils.InferenceResponse(tensors)
