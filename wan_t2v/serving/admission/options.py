"""Queue options of a request: its workload, deadline and priority."""

import time
from dataclasses import dataclass, replace

from wan_t2v.serving.admission.estimate import Workload
from wan_t2v.serving.request_options import DEFAULT_PRIORITY, RequestOptions


@dataclass(frozen=True)
class QueueOptions:
    """Properties of a request that the queue uses.

    Attributes:
        work: the whole generation.
        deadline: time at which its caller stops waiting, on the steady clock; None for never.
        priority: from 1, which goes first, to 9.
        steps_done: steps that a kept checkpoint has already; 0 for a generation from the start.
    """

    work: Workload
    deadline: float | None = None
    priority: int = DEFAULT_PRIORITY
    steps_done: int = 0

    @classmethod
    def of(
        cls,
        options: RequestOptions,
        work: Workload,
        *,
        default_timeout_s: float | None = None,
        steps_done: int = 0,
    ) -> "QueueOptions":
        """Make the options, with the timeout counted from now; `default_timeout_s` replaces a missing timeout."""
        timeout_s = default_timeout_s if options.timeout_s is None else options.timeout_s
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return cls(work, deadline, options.priority, steps_done)

    @property
    def work_left(self) -> Workload:
        """The part of the generation that is still to be done."""
        return replace(self.work, num_inference_steps=max(0, self.work.num_inference_steps - self.steps_done))

    def is_late(self, now: float) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and now >= self.deadline
