"""Test model: calls `gpu_echo` as the denoiser calls an expert, with a tensor of `values` numbers, `repeats` times."""

import json
import statistics
import time
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: Any) -> None:
        on_gpu = args["model_instance_kind"] == "GPU"
        self.device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        torch.zeros(1, device=self.device)

    def execute(self, requests: Any) -> list[Any]:
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "asked")) for request in requests]

    def answer(self, asked: Any) -> Any:
        try:
            report = self.probe(**json.loads(asked.as_numpy().reshape(-1)[0]))
        except Exception as error:
            report = {"error": f"{type(error).__name__}: {error}"}
        array = np.array([json.dumps(report).encode()], dtype=np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor("told", array)])

    def probe(self, values: int, repeats: int) -> dict[str, Any]:
        sent = torch.rand(values, device=self.device)
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            response = pb_utils.InferenceRequest(
                model_name="gpu_echo",
                requested_output_names=["y", "came_on_gpu"],
                inputs=[pb_utils.Tensor.from_dlpack("x", sent)],
            ).exec()
            if response.has_error():
                return {"error": response.error().message()}
            outputs = {tensor.name(): tensor for tensor in response.output_tensors()}
            doubled = torch.utils.dlpack.from_dlpack(outputs["y"].to_dlpack())
            right = doubled.shape == sent.shape and torch.equal(doubled.to(self.device), 2 * sent)  # waits for the GPU
            seconds.append(time.perf_counter() - started)
        return {
            "right": bool(right),
            "sent_on_gpu": sent.is_cuda,
            "came_on_gpu": bool(outputs["came_on_gpu"].as_numpy()[0]),
            "answered_on_gpu": not outputs["y"].is_cpu(),
            "first_ms": 1e3 * seconds[0],
            "median_ms": 1e3 * statistics.median(seconds[1:] or seconds),
        }
