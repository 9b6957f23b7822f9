"""A graph as a Triton model on the embedded server: the Python backend in the place of the TensorRT backend."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wan_t2v.engines.engine import Engine
from wan_t2v.engines.logged import LoggedEngine
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine
from wan_t2v.serving.answers import answered
from wan_t2v.serving.parameters import ModelParameters
from wan_t2v.serving.tensors import numpy_from_triton, to_triton

GRAPH_FILE = "model.onnx"


class GraphModel:
    """Runs `model.onnx` of its version folder for each request, in the batch that the server made of them."""

    def __init__(self, pb_utils: Any, args: Mapping[str, str]) -> None:
        parameters = ModelParameters.from_args(args)
        self._pb_utils = pb_utils
        self._engine: Engine = OnnxRuntimeEngine(
            installed_graph(parameters.version_folder), threads=parameters.integer("threads", least=0)
        )
        log = parameters.optional_path("interval_log")
        if log is not None:
            self._engine = LoggedEngine(self._engine, log / f"{parameters.model}-{os.getpid()}.txt")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's entry point."""
        return answered(self._pb_utils, requests, self._answer)

    def _answer(self, request: Any) -> list[Any]:
        inputs = {tensor.name(): numpy_from_triton(tensor) for tensor in request.inputs()}
        outputs = self._engine(inputs, list(request.requested_output_names()))
        return [to_triton(self._pb_utils, name, array) for name, array in outputs.items()]


def installed_graph(folder: Path) -> Path:
    """Path of the graph in a version folder. Raises FileNotFoundError naming the command that makes it."""
    path = folder / GRAPH_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing. Run `make export` (wan-mini) or `make export CHECKPOINT=<diffusers folder>` first."
        )
    return path
