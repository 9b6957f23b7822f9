"""A graph as a Triton model on the embedded server: the Python backend in the place of the TensorRT backend."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wan_t2v.engines.engine import Engine
from wan_t2v.engines.logged import LoggedEngine
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine
from wan_t2v.facts import missing
from wan_t2v.serving.answers import answered
from wan_t2v.serving.parameters import ModelParameters, read_manifest
from wan_t2v.serving.tensors import numpy_from_triton, to_triton

GRAPH_FILE = "model.onnx"


class GraphModel:
    """Runs `model.onnx` of its version folder; requests that the server hands over together run as one batch."""

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
        """Triton's entry point. The Python backend leaves it to the model to make one batch of several requests."""
        calls = [Call.from_request(request) for request in requests]
        answers: dict[int, dict[str, NDArray[Any]]] = {}

        def answer(index: int) -> list[Any]:
            if index not in answers:
                together = [other for other, call in enumerate(calls) if call.merges_with(calls[index])]
                answers.update(zip(together, merged(self._engine, [calls[other] for other in together]), strict=True))
            return [to_triton(self._pb_utils, name, array) for name, array in answers[index].items()]

        return answered(self._pb_utils, range(len(requests)), answer)


@dataclass(frozen=True)
class Call:
    """What one request asks of the graph; the first axis of every array is the batch."""

    inputs: dict[str, NDArray[Any]]
    outputs: list[str]

    @classmethod
    def from_request(cls, request: Any) -> "Call":
        """Read a Triton request; its arrays stay views."""
        inputs = {tensor.name(): numpy_from_triton(tensor) for tensor in request.inputs()}
        return cls(inputs, list(request.requested_output_names()))

    def merges_with(self, other: "Call") -> bool:
        """Whether one batch can hold both: the same outputs wanted, the same shapes beside the batch."""
        shapes, others = ({name: a.shape[1:] for name, a in call.inputs.items()} for call in (self, other))
        return self.outputs == other.outputs and shapes == others

    @property
    def batch(self) -> int:
        """Rows of this call."""
        return len(next(iter(self.inputs.values())))


def merged(engine: Engine, calls: Sequence[Call]) -> list[dict[str, NDArray[Any]]]:
    """Run calls that merge as one batch and give each its rows."""
    if len(calls) == 1:
        return [engine(calls[0].inputs, calls[0].outputs)]
    inputs = {name: np.concatenate([call.inputs[name] for call in calls]) for name in calls[0].inputs}
    outputs = engine(inputs, calls[0].outputs)
    ends = np.cumsum([call.batch for call in calls])
    return [
        {name: array[end - call.batch : end] for name, array in outputs.items()}
        for call, end in zip(calls, ends, strict=True)
    ]


def installed_graph(folder: Path) -> Path:
    """Path of the graph in a version folder.

    Raises FileNotFoundError naming the command that makes it, ValueError if it is not the graph of its manifest.
    """
    path = folder / GRAPH_FILE
    expected = read_manifest(folder)["onnx_sha256"]
    if not path.exists():
        raise missing(path)
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != expected:
            raise ValueError(f"{path} is not the file that its manifest describes. Run `make export` again.")
    return path
