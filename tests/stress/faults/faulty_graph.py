"""A Triton model for tests: a graph that goes wrong when a file tells it to, and else is the real one.

`tests/stress/faults/harmed_repository.py` puts it in the place of `1/model.py` of the experts, of the decoder of later frames
and of the text encoder. The parameter `fault_file` names a JSON file that need not be there; see `Fault`. The text
encoder's is an empty file: the call that finds it takes it away and fails.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from wan_t2v.serving.models.graph import GraphModel

AFTER_ALL_STEPS = 0.0  # the decoder's place among the timesteps
POLL_S = 0.02


@dataclass(frozen=True)
class Fault:
    """What to do to passes of one clip size from a moment on.

    Attributes:
        kind: `nan` answers with no numbers, `error` raises, `hold` waits until the file is gone; `open files` and
            `memory` answer rightly and leak a file and 4 MiB a pass.
        latents: height and width of the latents whose passes are meant; others' go well.
        below: the timestep from which on.
    """

    kind: str
    latents: tuple[int, int]
    below: float

    @classmethod
    def read(cls, path):
        """None if no fault is wanted."""
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
    """An engine and what may happen to its answers."""

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
    """A text encoder, one call of which fails each time that a file is put there."""

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
