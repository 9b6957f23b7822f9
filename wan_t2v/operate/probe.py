"""Readiness and liveness probes, from Triton's HTTP address and the process table.

Triton 2.51 reports a model as ready although its Python process is dead. Triton 2.71 reports it as not ready, like a
model that was unloaded on purpose. Both serve a model's metadata exactly while it is loaded, even if its processes are
dead, and need no key for that. So they do with its configuration, unless `model-config` is restricted to holders of a
key: then each Python model counts as one process, if no more are seen. Neither knows of a drain.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from wan_t2v.contract import EXPERTS, MODELS, UNARY
from wan_t2v.operate.gpu_fault import marked_gpu_fault
from wan_t2v.operate.own_server import http_get, http_status
from wan_t2v.operate.processes import configured_processes, has_lost_a_process, models_short_of, stub_pids
from wan_t2v.operate.run_directory import RunDirectory

ITS_LOOP = "denoiser"
SWAPPED = EXPERTS  # the denoiser may unload one of them on purpose
PYTHON = "python"
_T = TypeVar("_T")


class ProbeFailed(Exception):
    """The probe failed; the message says why."""


@dataclass(frozen=True)
class Probe:
    """One probe of a server. `url` is Triton's HTTP address; `timeout_s` limits the whole probe, in seconds."""

    url: str
    run: RunDirectory
    timeout_s: float
    _began: float = field(default_factory=time.monotonic)

    def check_ready(self) -> None:
        """Raise ProbeFailed unless requests can be served: no drain, a sound GPU, every model and process there."""
        if self.run.draining:
            raise ProbeFailed("the server is draining")
        self._check_gpu()
        expected = self._expected_processes()
        # Strict readiness counts only until the first success: it also fails each time an expert is swapped.
        if not expected and not self._answers("/v2/health/ready"):
            raise ProbeFailed("the server is not ready")
        expected = self._remember(expected)
        self._check_processes(expected)  # first, since it names the cause where readiness names the consequence
        models = [*expected, *([UNARY] if ITS_LOOP in expected else [])]
        for model in models:
            if model not in SWAPPED and not self._answers(f"/v2/models/{model}/ready"):
                raise ProbeFailed(f"{model} is not ready")

    def check_live(self) -> None:
        """Raise ProbeFailed if the server does not answer, or has lost its GPU or a Python process for good."""
        if not self._answers("/v2/health/live"):
            raise ProbeFailed("the server does not answer")
        self._check_gpu()
        self._check_processes(self._expected_processes())

    def _check_gpu(self) -> None:
        """Raise ProbeFailed after a GPU fault: Triton stays ready, and every call fails at once."""
        fault = marked_gpu_fault(self.run)
        if fault is not None:
            raise ProbeFailed(f"the GPU failed, and no call succeeds until the server is started again: {fault}")

    def _check_processes(self, expected: dict[str, int]) -> None:
        for model in models_short_of(expected, self._living()):
            count = f"{len(self._living().get(model, ()))} of its {expected[model]} Python processes"
            if model not in SWAPPED:
                raise ProbeFailed(f"{model} has {count}")
            if has_lost_a_process(model, expected, living=self._living, is_loaded=self._is_loaded):
                raise ProbeFailed(f"{model} is loaded but has {count}")

    def _expected_processes(self) -> dict[str, int]:
        """Read the process count per model that was recorded while the server was ready; empty before that."""
        counts = self.run.read_json("processes.json") or {}
        return {model: count for model, count in counts.items() if isinstance(count, int)}

    def _remember(self, expected: dict[str, int]) -> dict[str, int]:
        """Record the process count of each model that is loaded and not known yet, and return all counts.

        It is the configuration's, since a process may have died before any was counted, but no less than are counted.
        Later counts do not replace the first: after a repair they include processes that are about to be ended.
        """
        living = self._living()
        known = dict(expected)
        for model in {*living, *(() if expected else MODELS)} - expected.keys():
            configured = self._configured_processes(model)
            if configured or (model in living and model not in SWAPPED):
                known[model] = max(configured, len(living.get(model, ())))
        if known != expected:
            self.run.write_json("processes.json", known)
        return known

    def _configured_processes(self, model: str) -> int:
        """Ask for the number of a model's processes; 0 unless Triton has it loaded, in the Python backend."""
        config = self._object(f"/v2/models/{model}/config")
        if config is None:  # not loaded, or not told without a key
            metadata = self._object(f"/v2/models/{model}") or {}
            return int(metadata.get("platform") == PYTHON)
        if config.get("backend") != PYTHON:
            return 0
        try:
            groups = [(int(group["count"]), len(group.get("gpus", ()))) for group in config["instance_group"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ProbeFailed(f"{self.url} has no instance groups in its configuration of {model}") from None
        return configured_processes(groups)

    def _living(self) -> dict[str, set[int]]:
        server = self.run.server()
        if server is None:
            raise ProbeFailed(f"no server has opened the run directory {self.run.path} yet")
        return stub_pids(server["pid"])

    def _is_loaded(self, model: str) -> bool:
        """Whether Triton has the model loaded, with its processes alive or dead."""
        return self._answers(f"/v2/models/{model}")

    def _answers(self, path: str) -> bool:
        return self._ask(http_status, path) == 200

    def _object(self, path: str) -> dict[str, Any] | None:
        """Ask for a JSON object; None for an answer with another status than 200."""
        status, body = self._ask(http_get, path)
        if status != 200:
            return None
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ProbeFailed(f"{self.url} answers {path} with something else than a JSON object")
        return found

    def _ask(self, ask: Callable[..., _T], path: str) -> _T:
        left_s = self.timeout_s - (time.monotonic() - self._began)
        if left_s <= 0:
            raise ProbeFailed(f"{self.url} did not answer within {self.timeout_s:g} s")
        try:
            return ask(self.url + path, timeout_s=left_s)
        except TimeoutError:
            raise ProbeFailed(f"{self.url} did not answer within {self.timeout_s:g} s") from None
        except OSError as error:
            raise ProbeFailed(f"{self.url} does not answer: {error.strerror or error}") from None
