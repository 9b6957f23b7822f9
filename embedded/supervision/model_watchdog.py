"""Reload a model whose Python process died, or that was unloaded: Triton never does so by itself.

Triton's repository index tells whether a model is loaded. Readiness does not on 2.71: it is false for a model with a
dead process as well as for one that was unloaded on purpose.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
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
from wan_t2v.operate.processes import configured_processes, has_lost_a_process, models_short_of, stub_pids, stubs

RETRY_S = 10.0
CALL_LIMIT_S = 5.0
LOAD_LIMIT_S = 120.0
LOADED = "READY"  # state of a model's version in the index, even with a dead process
PYTHON = "python"  # backend of the models that have processes


def count_processes(living: Mapping[str, set[int]]) -> dict[str, int]:
    """Return the number of living processes per model."""
    return {model: len(pids) for model, pids in living.items()}


class ModelWatchdog:
    """Watchdog of one running server's models.

    `report` is called with every event. `expected` is the number of processes per model, by default of those that run
    now. It is raised to the number in a loaded model's configuration: a process may have died before they were counted.
    """

    def __init__(
        self,
        options: ServerOptions,
        pid: int,
        *,
        run_directory: Path,
        report: Callable[[dict[str, Any]], None],
        expected: Mapping[str, int] | None = None,
    ) -> None:
        self._options, self._pid, self._report = options, pid, report
        self._orphans = OrphanedProcesses(run_directory)
        self._regions = Regions(SHARED_MEMORY)
        self._expected = count_processes(self._living()) if expected is None else dict(expected)
        # models whose reload failed, so that Triton reports them as unloaded, and the time of the next try
        self._broken: dict[str, float] = {}
        self._unloaded = UnloadedModels(options, self._client)
        # models that are short of processes although they were loaded again, and the time of the next try
        self._short: dict[str, float] = {}
        self._configured: set[str] = set()  # models whose configuration is known

    def check(self) -> None:
        """Load an unloaded model; unload and load again each model that has lost a process."""
        self._orphans.end_idle()
        self._regions.forget_dead((stub.pid, stub.region) for stub in stubs(self._pid))
        self._load_unloaded()
        self._expect_configured()
        for model in models_short_of(self._expected, self._living()):
            if time.monotonic() < max(self._broken.get(model, 0.0), self._short.get(model, 0.0)):
                continue
            if model not in self._broken and not self.lost_a_process(model):
                continue  # it was unloaded on purpose, or is being loaded
            if self._reload(model):
                self._broken.pop(model, None)
                self._expect_anew(model)
            else:
                self._broken[model] = time.monotonic() + RETRY_S

    def _load_unloaded(self) -> None:
        """Load only the first unloaded model, since that changes the index."""
        names = self._unloaded.names(failed=self._broken.keys())
        model = next((name for name in names if time.monotonic() >= self._broken.get(name, 0.0)), None)
        if model is None:
            return
        self._report({"event": "unloaded", "model": model})
        if self._apply(model, self._client.load_model):
            self._broken.pop(model, None)
        else:
            self._broken[model] = time.monotonic() + RETRY_S

    def _expect_configured(self) -> None:
        """Expect of each loaded Python model the processes of its configuration, which Triton is asked for once."""
        with contextlib.suppress(InferenceServerException):  # the server is ending or stuck
            for model in sorted(self._loaded_models() - self._configured):
                with contextlib.suppress(InferenceServerException):  # the others' answers count all the same
                    self._expected[model] = max(self._configured_processes(model), self._expected.get(model, 0))
                    self._configured.add(model)

    def _expect_anew(self, model: str) -> None:
        """Expect of a model that was loaded again the processes of its configuration of now: it may have changed."""
        with contextlib.suppress(InferenceServerException):
            configured = self._configured_processes(model)
            self._expected[model] = max(configured, len(self._living().get(model, ()))) or self._expected[model]
        if model in models_short_of(self._expected, self._living()):
            self._short[model] = time.monotonic() + RETRY_S

    def _configured_processes(self, model: str) -> int:
        """Ask for the number of a loaded model's processes; 0 outside the Python backend.

        Raises InferenceServerException, also for a model that was unloaded meanwhile.
        """
        answer = self._client.get_model_config(model, headers=self._options.admin_header, client_timeout=CALL_LIMIT_S)
        if answer.config.backend != PYTHON:
            return 0
        return configured_processes((group.count, len(group.gpus)) for group in answer.config.instance_group)

    def lost_a_process(self, model: str) -> bool:
        """Whether a loaded model has fewer processes than are expected of it."""
        return has_lost_a_process(model, self._expected, living=self._living, is_loaded=self._is_loaded)

    @cached_property
    def _client(self) -> tritonclient.grpc.InferenceServerClient:
        return own_client(self._options)

    def _living(self) -> dict[str, set[int]]:
        return {model: pids - self._orphans.pids for model, pids in stub_pids(self._pid).items()}

    def _is_loaded(self, model: str) -> bool:
        try:
            return model in self._loaded_models()
        except InferenceServerException:
            return False  # the server is ending or stuck: nothing to reload

    def _loaded_models(self) -> set[str]:
        index = self._client.get_model_repository_index(headers=self._options.admin_header, client_timeout=CALL_LIMIT_S)
        return {entry.name for entry in index.models if entry.state == LOADED}

    def _reload(self, model: str) -> bool:
        """Reload a model. Returns whether it is loaded again."""
        self._report({"event": "died", "model": model})
        self._orphans.add(self._living().get(model, ()))
        return self._apply(model, self._client.unload_model, self._client.load_model)

    def _apply(self, model: str, *changes: Callable[..., None]) -> bool:
        """Apply changes (unload, load) to a model, and report the result. Returns whether all succeeded."""
        started = time.monotonic()
        try:
            for change in changes:
                change(model, headers=self._options.admin_header, client_timeout=LOAD_LIMIT_S)
        except InferenceServerException as error:
            self._report({"event": "not repaired", "model": model, "error": str(error)})
            return False
        self._report({"event": "repaired", "model": model, "seconds": round(time.monotonic() - started, 2)})
        return True
