"""Which job a dead Python process of the server is counted against."""

import math
import time
from collections.abc import Callable


class ProcessDeaths:
    """Deaths of the server's Python processes, as this worker's jobs met them. `now` is a steady clock.

    Triton answers the call that killed a process and those that meet it dead with the same words. So a death counts
    only if the processes have lived since the one before: if an attempt that began after that one made a step.

    A job that meets an already dead process may be blamed for it, at most once per death. Steps of other jobs in
    between allow another wrong count: a cached prompt needs no text encoder, so its job makes steps without that
    process. A job that kills a process each time is found as soon as others are made in between.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last, self._lived = -math.inf, False

    def record_step(self, *, began: float) -> None:
        """Record a step of an attempt that began at this time."""
        self._lived = self._lived or began > self._last

    def record_death(self) -> bool:
        """Record a death. Returns whether the processes had lived since the one before."""
        lived, self._lived, self._last = self._lived, False, self._now()
        return lived
