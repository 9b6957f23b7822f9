"""Retries: only while the server is unavailable, with growing waits, never past the deadline."""

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from wan_t2v_client.deadline import Deadline, check_seconds
from wan_t2v_client.errors import ClientError, RequestRefused, Unavailable

_MOST_DOUBLINGS = 64  # beyond any wait; a thousand would overflow a float


def _tell_nobody(error: Unavailable, wait_s: float) -> None:
    pass


@dataclass(frozen=True)
class RetryPolicy:
    """Number of tries of a call, and the waits in between. Raises RequestRefused for what cannot be waited or counted.

    Each wait is twice the one before, and its later half is random, so that callers who failed together do not retry
    together ("equal jitter" of "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). A server's
    `retry_after_s` is added to the wait.

    Attributes:
        attempts: tries in all; 1 is no retry.
        first_wait_s, longest_wait_s: first wait and limit of the doubling, without the server's `retry_after_s`.
        after_progress: retry even after steps were reported. The server then computes all steps again, from step 1,
            and a request that crashed the server may do so again. So it is off by default. It gives no wrong result:
            no video had arrived, and the same request with a seed gives the same bytes.
        on_wait: called with the error and the seconds before each wait.
        random: returns numbers from 0 to 1.
    """

    attempts: int = 5
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    after_progress: bool = False
    on_wait: Callable[[Unavailable, float], None] = field(default=_tell_nobody, repr=False)
    random: Callable[[], float] = field(default=random.random, repr=False)

    def __post_init__(self) -> None:
        if not _is_positive(self.attempts):
            raise RequestRefused(f"attempts: got {self.attempts!r:.40}; accepted: a whole number from 1 on")
        check_seconds("first_wait_s", self.first_wait_s)
        check_seconds("longest_wait_s", self.longest_wait_s)

    def wait_s(self, failures: int, retry_after_s: float | None) -> float:
        """Return the seconds to wait after the `failures`-th failure, counted from 1."""
        backoff_s: float = min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
        return (retry_after_s or 0.0) + backoff_s * (1 + self.random()) / 2


def _is_positive(number: object) -> bool:
    try:
        return operator.index(number) > 0  # type: ignore[arg-type]
    except TypeError:
        return False


NO_RETRY = RetryPolicy(attempts=1)


class Retries:
    """The tries of one call. Neither this nor the policy sleeps, so blocking and asyncio calls share both."""

    def __init__(self, policy: RetryPolicy, deadline: Deadline) -> None:
        self._policy, self._deadline = policy, deadline
        self._failures = 0

    def wait_s(self, error: ClientError, *, progressed: bool = False) -> float:
        """Return the seconds to wait until the next try. Raises `error` if no further try is allowed."""
        self._failures += 1
        if not isinstance(error, Unavailable) or (progressed and not self._policy.after_progress):
            raise error
        if self._failures >= self._policy.attempts:
            raise error if self._failures == 1 else _with(error, f"tried {self._failures} times")
        wait_s = self._policy.wait_s(self._failures, error.retry_after_s)
        if wait_s >= self._deadline.left_s():
            raise _with(error, f"the next try, in {wait_s:.0f} s, would come after the deadline")
        self._policy.on_wait(error, wait_s)
        return wait_s


def _with(error: Unavailable, reason: str) -> Unavailable:
    return type(error)(f"{error}; {reason}", retry_after_s=error.retry_after_s)
