"""Admission at the ensemble's first step, since the denoiser cannot reject a request while it works."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wan_t2v.contract import UNARY
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.request import Settings
from wan_t2v.serving.admission.estimate import Workload
from wan_t2v.serving.admission.options import QueueOptions
from wan_t2v.serving.admission.queue import Admission, AdmissionLimits
from wan_t2v.serving.python_backend.metrics import Metrics
from wan_t2v.serving.python_backend.parameters import ModelParameters
from wan_t2v.serving.python_backend.run import server_run_directory
from wan_t2v.serving.request_options import RequestOptions
from wan_t2v.serving.resume.idempotency import TrustedProxy
from wan_t2v.serving.resume.kept_steps import check_key, kept_steps
from wan_t2v.serving.signed_settings import Generation

DEFAULT_TIMEOUT_S = 14_400


class EnsembleGate:
    """Admission in the model `prepare`. Requests that the streaming endpoint has admitted pass unchecked."""

    def __init__(self, pb_utils: Any, parameters: ModelParameters) -> None:
        self._run = server_run_directory(parameters)
        self._key = self._run.key()
        self._proxy = TrustedProxy.of_environment()
        self._metrics = Metrics(pb_utils, endpoint=UNARY)
        self._default_timeout_s = parameters.integer("default_timeout_s", least=1, default=DEFAULT_TIMEOUT_S)

    def close(self) -> None:
        """Send the remaining metrics."""
        self._metrics.close()

    @contextlib.contextmanager
    def admit(self, request: Any) -> Iterator["PendingAdmission"]:
        """Parse the request's parameters; `settle` then admits it, once its settings are known.

        A failure within this context frees the request's place and counts its end. Raises InvalidField.
        """
        pending: PendingAdmission | None = None
        try:
            options = RequestOptions.from_triton(request, self._proxy, run_key=self._key)
            with contextlib.ExitStack() as until_prepared:
                pending = PendingAdmission(options, self._run, self._metrics, self._default_timeout_s, until_prepared)
                yield pending
        except Exception as error:
            if pending is None or not pending.options.is_admitted:
                self._metrics.count_end(error)
            raise


@dataclass(frozen=True)
class PendingAdmission:
    """A request before its admission. `until_prepared` holds its place while its prompts are encoded."""

    options: RequestOptions
    run: RunDirectory
    metrics: Metrics
    default_timeout_s: float
    until_prepared: contextlib.ExitStack

    def settle(self, settings: Settings) -> Generation:
        """Admit the request. Raises AdmissionError, or InvalidField for a key that this server cannot keep.

        Triton does not tell an ensemble's models of a cancellation, so a request of this endpoint must have a deadline.
        """
        if self.options.is_admitted:
            return Generation.of(settings)
        check_key(self.run, self.options.key)
        queue_options = QueueOptions.of(
            self.options,
            Workload.of(settings),
            default_timeout_s=self.default_timeout_s,
            steps_done=kept_steps(self.run, self.options.key),
        )
        generation = Generation.of(settings, queue_options.deadline)
        limits = AdmissionLimits.read_published(self.run)
        if limits is not None:  # else the denoiser is still loading, and admits the request itself
            admission = Admission(self.run, endpoint=UNARY, limits=limits)
            self.until_prepared.enter_context(admission.preparing(queue_options, generation.id))
            self.metrics.count_admission()
        return generation
