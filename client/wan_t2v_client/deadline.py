"""Deadlines: the time at which a caller gives up, retries included."""

import math
import time
from collections.abc import Callable
from numbers import Real

from wan_t2v_client.errors import ClientError, DeadlineExceeded, RequestRefused

LONGEST_S = 1e8  # three years; clocks and protocols overflow far beyond that
ANSWER_LIMIT_S = 10.0  # of a question that the server answers at once


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


class AnswerDeadline(Deadline):
    """The deadline of a question about the server: ANSWER_LIMIT_S if the caller gave none. Raises RequestRefused."""

    def __init__(self, seconds: float | None) -> None:
        self._limit_s = ANSWER_LIMIT_S if seconds is None else seconds
        super().__init__(self._limit_s)

    def explain(self, error: ClientError) -> ClientError:
        """Return the error; in place of a passed deadline, which gRPC names by its code, one that says so."""
        if not isinstance(error, DeadlineExceeded):
            return error
        return DeadlineExceeded(f"the server did not answer within {self._limit_s:g} s")


def timeout(seconds: float) -> float | None:
    """Return the seconds as a timeout; None for an infinite wait."""
    return None if math.isinf(seconds) else seconds
