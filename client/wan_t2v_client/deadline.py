"""Deadlines: the time at which a caller gives up, retries included."""

import math
import time
from collections.abc import Callable
from numbers import Real

from wan_t2v_client.errors import RequestRefused

LONGEST_S = 1e8  # three years; clocks and protocols overflow far beyond that


def check_seconds(name: str, value: float, *, least: float = 0.0, longest: float = LONGEST_S) -> None:
    """Raise RequestRefused unless `value` is a usable number of seconds."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and least <= value <= longest):
        raise RequestRefused(
            f"{name}: got {value!r:.40}; accepted: a number of seconds from {least:g} to {longest:.0f}"
        )


class Deadline:
    """A deadline `seconds` from now, or none. `now` gives seconds on any steady clock. Raises RequestRefused."""

    def __init__(self, seconds: float | None, now: Callable[[], float] = time.monotonic) -> None:
        if seconds is not None:
            check_seconds("deadline_s", seconds)
        self._now = now
        self._ends = math.inf if seconds is None else now() + seconds

    def left_s(self) -> float:
        """Return the seconds that are left: 0 if the deadline has passed, infinite without a deadline."""
        return max(0.0, self._ends - self._now())

    def timeout_s(self) -> float | None:
        """Return the seconds that are left as a timeout for gRPC; None without a deadline."""
        return timeout(self.left_s())

    def timeout_us(self) -> int | None:
        """Return the microseconds that are left, at least 1, for Triton's `timeout`; None without a deadline."""
        left_s = self.left_s()
        return None if math.isinf(left_s) else max(1, int(left_s * 1e6))


def timeout(seconds: float) -> float | None:
    """Return the seconds as a timeout; None for an infinite wait."""
    return None if math.isinf(seconds) else seconds
