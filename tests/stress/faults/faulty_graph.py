"""Triton model for tests: the real graph, which fails on demand while a fault file exists.

`tests/stress/faults/harmed_repository.py` replaces `1/model.py` of the experts, of `vae_decoder_next` and of the text
encoder by it. The parameter `fault_file` is the path of a JSON file (see `Fault`), which may be missing. The text
encoder's is an empty file: the call that finds it removes it and fails.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from wan_t2v.serving.models.graph import GraphModel

AFTER_ALL_STEPS = 0.0  # timestep that stands for the decoder
POLL_S = 0.02


@dataclass(frozen=True)
class Fault:
    """A fault of all passes of one clip size from some timestep on.

    Attributes:
        kind: `nan` returns NaN, `error` raises, `hold` waits until the file is removed; `open files` and `memory` give
            correct results and leak an open file or 4 MiB per pass.
        latents: height and width of the affected latents.
        below: timestep below which passes are affected.
    """

    kind: str
    latents: tuple[int, int]
    below: float

    @classmethod
    def read(cls, path):
        """Read the fault file. None if it is missing."""
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        return cls(found["kind"], tuple(found["latents"]), found["below"])

    def is_meant(self, inputs):
        latents = inputs["hidden_states"] if "hidden_states" in inputs else inputs["latents"]
        timestep = float(inputs["timestep"].max()) if "timestep" in inputs else AFTER_ALL_STEPS
        return latents.shape[-2:] == self.latents and timestep < self.below


class FaultyEngine:
    """Engine that applies the current fault to its results."""

    def __init__(self, engine, path):
        self._engine, self._path = engine, path
        self._leaked = []

    def __call__(self, inputs, outputs=None, **options):
        answer = self._engine(inputs, outputs, **options)
        fault = Fault.read(self._path)
        if fault is None or not fault.is_meant(inputs):
            return answer
        if fault.kind == "error":
            raise RuntimeError("a fault of a test: no memory for this pass")
        if fault.kind == "nan":
            return {name: np.full_like(array, np.nan) for name, array in answer.items()}
        if fault.kind == "hold":
            while self._path.exists():
                time.sleep(POLL_S)
            return answer
        self._leaked.append(self._path.open() if fault.kind == "open files" else np.ones(2**22, np.uint8))
        return answer


class OnceFailingEngine:
    """Engine of the text encoder. One call fails each time that the fault file is created."""

    def __init__(self, engine, path):
        self._engine, self._path = engine, path

    def __call__(self, inputs, outputs=None, **options):
        try:
            self._path.unlink()
        except FileNotFoundError:
            return self._engine(inputs, outputs, **options)
        raise RuntimeError("a fault of a test: no memory for this prompt")


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        harm = OnceFailingEngine if config["name"] == "text_encoder" else FaultyEngine
        self.model = GraphModel(pb_utils, args)
        self.model._engine = harm(self.model._engine, Path(config["parameters"]["fault_file"]["string_value"]))

    def execute(self, requests):
        return self.model.execute(requests)
