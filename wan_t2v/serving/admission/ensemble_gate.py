"""The unary door's first step lets a request in or refuses it at once: the denoiser answers nobody while it works."""

import contextlib
import hmac
import json
from collections.abc import Callable, Iterator
from typing import Any

from wan_t2v.contract import UNARY
from wan_t2v.operate.run_directory import IN_TRANSIT
from wan_t2v.request import Settings
from wan_t2v.serving.admission.estimate import Work
from wan_t2v.serving.admission.options import Asked
from wan_t2v.serving.admission.queue import Admission, Rules
from wan_t2v.serving.python_backend.metrics import Metrics
from wan_t2v.serving.python_backend.parameters import ModelParameters
from wan_t2v.serving.python_backend.run import server_run_directory
from wan_t2v.serving.signed_settings import Generation

DEFAULT_TIMEOUT_S = 14_400
LET_IN = "let_in"  # a parameter whose value only this server's own processes know


class UnaryDoor:
    """Stands in the model `prepare`, which both doors call; requests that the streaming door let in just pass."""

    def __init__(self, pb_utils: Any, parameters: ModelParameters) -> None:
        self._run = server_run_directory(parameters)
        self._key = self._run.key()
        self._metrics = Metrics(pb_utils, door=UNARY)
        self._default_timeout_s = parameters.integer("default_timeout_s", least=1, default=DEFAULT_TIMEOUT_S)

    def close(self) -> None:
        """Tell what is left to tell."""
        self._metrics.close()

    @contextlib.contextmanager
    def passing(self, request: Any) -> Iterator[Callable[[Settings], Generation]]:
        """Yield what lets the request in, once its settings are known, or raises AdmissionError.

        An ensemble never hears that a caller left, so a request of this endpoint always has a deadline.
        What fails after it gives its place back; each end is counted.
        """
        ours, reserved_id = self._is_let_in(request), ""

        def let_in(settings: Settings) -> Generation:
            nonlocal reserved_id
            if ours:
                return Generation.of(settings)
            asked = Asked.by(request, Work.of(settings), default_timeout_s=self._default_timeout_s)
            generation = Generation.of(settings, asked.deadline)
            rules = Rules.published(self._run)
            if rules is not None:  # else the denoiser, which is loading, decides
                Admission(self._run, door=UNARY, rules=rules).reserve(asked, generation.id)
                reserved_id = generation.id
                self._metrics.admitted()
            return generation

        try:
            yield let_in
        except Exception as error:
            if reserved_id:
                self._run.unmark(IN_TRANSIT, reserved_id)
            if not ours:
                self._metrics.ended(error)
            raise

    def callers_parameters(self, request: Any) -> dict[str, Any]:
        """The request's parameters without what the streaming door added."""
        parameters: dict[str, Any] = json.loads(request.parameters() or "{}")
        if self._is_let_in(request):
            del parameters[LET_IN]
        return parameters

    def _is_let_in(self, request: Any) -> bool:
        value = json.loads(request.parameters() or "{}").get(LET_IN)
        return isinstance(value, str) and hmac.compare_digest(value.encode(), self._key.encode())
