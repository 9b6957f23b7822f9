"""Admission at the ensemble's first step: the denoiser itself answers nobody while it works."""

import contextlib
import hmac
import json
from collections.abc import Callable, Iterator
from typing import Any

from wan_t2v.contract import UNARY
from wan_t2v.operate.run_directory import IN_TRANSIT
from wan_t2v.request import Settings
from wan_t2v.serving.admission.estimate import Workload
from wan_t2v.serving.admission.options import QueueOptions
from wan_t2v.serving.admission.queue import Admission, AdmissionLimits
from wan_t2v.serving.python_backend.metrics import Metrics
from wan_t2v.serving.python_backend.parameters import ModelParameters
from wan_t2v.serving.python_backend.run import server_run_directory
from wan_t2v.serving.signed_settings import Generation

DEFAULT_TIMEOUT_S = 14_400
ADMITTED = "let_in"  # a parameter whose value only this server's own processes know


class EnsembleGate:
    """Admission in the model `prepare`. Requests that the streaming endpoint admitted pass at once."""

    def __init__(self, pb_utils: Any, parameters: ModelParameters) -> None:
        self._run = server_run_directory(parameters)
        self._key = self._run.key()
        self._metrics = Metrics(pb_utils, endpoint=UNARY)
        self._default_timeout_s = parameters.integer("default_timeout_s", least=1, default=DEFAULT_TIMEOUT_S)

    def close(self) -> None:
        """Tell what is left to tell."""
        self._metrics.close()

    @contextlib.contextmanager
    def admit(self, request: Any) -> Iterator[Callable[[Settings], Generation]]:
        """Yield what lets the request in, once its settings are known, or raises AdmissionError.

        An ensemble never hears that a caller left, so a request of this endpoint always has a deadline.
        What fails after it gives its place back; each end is counted.
        """
        ours, reserved_id = self._is_admitted(request), ""

        def admit_settings(settings: Settings) -> Generation:
            nonlocal reserved_id
            if ours:
                return Generation.of(settings)
            options = QueueOptions.from_triton(
                request, Workload.of(settings), default_timeout_s=self._default_timeout_s
            )
            generation = Generation.of(settings, options.deadline)
            limits = AdmissionLimits.published(self._run)
            if limits is not None:  # else the denoiser, which is loading, decides
                Admission(self._run, endpoint=UNARY, limits=limits).reserve(options, generation.id)
                reserved_id = generation.id
                self._metrics.count_admission()
            return generation

        try:
            yield admit_settings
        except Exception as error:
            if reserved_id:
                self._run.unmark(IN_TRANSIT, reserved_id)
            if not ours:
                self._metrics.count_end(error)
            raise

    def callers_parameters(self, request: Any) -> dict[str, Any]:
        """The request's parameters without what the streaming endpoint added."""
        parameters: dict[str, Any] = json.loads(request.parameters() or "{}")
        if self._is_admitted(request):
            del parameters[ADMITTED]
        return parameters

    def _is_admitted(self, request: Any) -> bool:
        value = json.loads(request.parameters() or "{}").get(ADMITTED)
        return isinstance(value, str) and hmac.compare_digest(value.encode(), self._key.encode())
