"""Load a model again whose Python process died, or that somebody unloaded: Triton never does by itself.

Whether Triton has a model loaded is asked of its repository index. Readiness says something else on 2.71: it is false
for a model with a dead process as it is for one that was unloaded on purpose.
"""

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from embedded.cleanup import SHARED_MEMORY
from embedded.grpc_client import own_client
from embedded.options import ServerOptions
from embedded.supervision.orphans import OrphanedProcesses, Regions
from embedded.supervision.unloaded_models import UnloadedModels
from wan_t2v.operate.processes import has_lost_a_process, models_short_of, stub_pids, stubs

RETRY_S = 10.0
CALL_LIMIT_S = 5.0
LOAD_LIMIT_S = 120.0
LOADED = "READY"  # state of a model's version in the index, also while a process of it is dead


class ModelWatchdog:
    """The models of one running server, as they were when all was loaded. `report` is told of every event."""

    def __init__(
        self, options: ServerOptions, pid: int, *, run_directory: Path, report: Callable[[dict[str, Any]], None]
    ) -> None:
        self._options, self._pid, self._report = options, pid, report
        self._retired = OrphanedProcesses(run_directory)
        self._regions = Regions(SHARED_MEMORY)
        self._expected = {model: len(pids) for model, pids in self._living().items()}
        # model to when to try again: its reload failed, so Triton calls it unloaded
        self._broken: dict[str, float] = {}
        self._unloaded = UnloadedModels(options, self._client)

    def check(self) -> None:
        """Load again each model that was unloaded, and each that lost a process (for that it is unloaded first)."""
        self._retired.end_idle()
        self._regions.forget_dead((stub.pid, stub.region) for stub in stubs(self._pid))
        self._load_unloaded()
        for model in models_short_of(self._expected, self._living()):
            if time.monotonic() < self._broken.get(model, 0.0):
                continue
            if model not in self._broken and not self.lost_a_process(model):
                continue  # somebody unloaded it on purpose, or is loading it
            if self._reloaded(model):
                self._broken.pop(model, None)
            else:
                self._broken[model] = time.monotonic() + RETRY_S

    def _load_unloaded(self) -> None:
        """The first of them alone: the index says something else afterwards."""
        names = self._unloaded.names(failed=self._broken.keys())
        model = next((name for name in names if time.monotonic() >= self._broken.get(name, 0.0)), None)
        if model is None:
            return
        self._report({"event": "unloaded", "model": model})
        if self._changed(model, self._client.load_model):
            self._broken.pop(model, None)
        else:
            self._broken[model] = time.monotonic() + RETRY_S

    def lost_a_process(self, model: str) -> bool:
        """Whether a loaded model has fewer processes than it had."""
        return has_lost_a_process(model, self._expected, living=self._living, is_loaded=self._is_loaded)

    @cached_property
    def _client(self) -> tritonclient.grpc.InferenceServerClient:
        return own_client(self._options)

    def _living(self) -> dict[str, set[int]]:
        return {model: pids - self._retired.pids for model, pids in stub_pids(self._pid).items()}

    def _is_loaded(self, model: str) -> bool:
        try:
            index = self._client.get_model_repository_index(
                headers=self._options.admin_header, client_timeout=CALL_LIMIT_S
            )
        except InferenceServerException:
            return False  # the server is ending or stuck: nothing to reload
        return any(entry.name == model and entry.state == LOADED for entry in index.models)

    def _reloaded(self, model: str) -> bool:
        """Reload a model; True if it is back."""
        self._report({"event": "died", "model": model})
        self._retired.add(self._living().get(model, ()))
        return self._changed(model, self._client.unload_model, self._client.load_model)

    def _changed(self, model: str, *changes: Callable[..., None]) -> bool:
        """Unload or load a model; True if all went well."""
        started = time.monotonic()
        try:
            for change in changes:
                change(model, headers=self._options.admin_header, client_timeout=LOAD_LIMIT_S)
        except InferenceServerException as error:
            self._report({"event": "not repaired", "model": model, "error": str(error)})
            return False
        self._report({"event": "repaired", "model": model, "seconds": round(time.monotonic() - started, 2)})
        return True
