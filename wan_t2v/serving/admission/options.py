"""Queue options of a request: its workload, deadline and priority."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wan_t2v.request import InvalidField
from wan_t2v.serving.admission.estimate import Workload

# Parameters of a request, not tensors: they change when a video is made and not what it is.
TIMEOUT, PRIORITY = "timeout", "queue_priority"
QUEUE_PARAMETERS = (TIMEOUT, PRIORITY)
FIRST, USUAL, LAST = 1, 5, 9


@dataclass(frozen=True)
class QueueOptions:
    """A request as the queue sees it.

    Attributes:
        deadline: when its caller stops waiting, on the steady clock; None for never.
        priority: from 1, which goes first, to 9.
    """

    work: Workload
    deadline: float | None = None
    priority: int = USUAL

    @classmethod
    def from_triton(cls, request: Any, work: Workload, *, default_timeout_s: float = 0.0) -> "QueueOptions":
        """Read Triton's request; without a timeout of its own it has the default one, 0 for none. Raises InvalidField.

        Triton keeps its own `timeout` (microseconds) out of the parameters over gRPC and leaves it in over HTTP's
        `generate`. Its `priority` reaches no Python model, so ours has another name.
        """
        parameters = json.loads(request.parameters() or "{}")
        timeout_us = request.timeout() or _integer(parameters, TIMEOUT, least=1) or default_timeout_s * 1e6
        deadline = time.monotonic() + timeout_us / 1e6 if timeout_us else None
        return cls(work, deadline, _integer(parameters, PRIORITY, least=FIRST, most=LAST) or USUAL)

    def is_late(self, now: float) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and now >= self.deadline


def _integer(parameters: Mapping[str, Any], name: str, *, least: int, most: int | None = None) -> int | None:
    value = parameters.get(name)
    if value is None:
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        accepted = (
            f"an integer from {least} up (microseconds)" if most is None else f"an integer from {least} to {most}"
        )
        raise InvalidField(name, value, accepted)
    return int(value)
