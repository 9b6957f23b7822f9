"""Limits on a stream's silence: after them it counts as hung."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from wan_t2v_client.deadline import Deadline, timeout
from wan_t2v_client.errors import ClientError, DeadlineExceeded, Unavailable
from wan_t2v_client.progress import Heartbeat, Progress

IDLE_LIMIT_S = 30.0  # the server's heart beats every 5 s
IDLE_STEPS = 5
LOADING = "load"  # the stage of a heartbeat: an expert is being loaded, for as long as that takes
DECODE_STEPS = 30  # decoding took 5 to 8 steps' time with guidance on, wan-mini at its smallest and largest sizes


class Limit(NamedTuple):
    """Seconds that the next message may take (None: any), and what it means if none came."""

    seconds: float | None
    error: ClientError


class Watchdog:
    """Two limits on silence, of which the first ends the wait; who reads late is not counted. `now` is a steady clock.

    The server: once its heart was heard, `idle_limit_s` without any message; its process is dead then. Before that the
    request may not have reached the model, however long it takes; there only the deadline and the connection's
    keepalive end a wait.

    The work: after a step, `idle_limit_s` or the time of five of the longest steps if that is longer, whatever its
    heart tells. The longest step counts, not the last: one that loads the other expert takes longer. After the last
    step the clip is decoded and encoded: there it is 30 steps. While the heart tells that an expert is being loaded
    this limit waits; the server has a limit of its own for that.
    """

    def __init__(self, idle_limit_s: float, deadline: Deadline, now: Callable[[], float] = time.monotonic) -> None:
        self._idle_limit_s, self.deadline, self._now = idle_limit_s, deadline, now
        self._longest_step_s: float | None = None
        self._steps = IDLE_STEPS
        self._beats = False
        self._listening, self._waited_s = now(), 0.0

    @property
    def progressed(self) -> bool:
        """Whether the server reported a step."""
        return self._longest_step_s is not None

    def record(self, message: Progress | Heartbeat) -> None:
        """Record a message that came."""
        if isinstance(message, Heartbeat):
            self._beats = True
            self._waited_s = 0.0 if message.stage == LOADING else self._waited_s + self._now() - self._listening
        else:
            self._waited_s = 0.0
            self._longest_step_s = max(self._longest_step_s or 0.0, message.step_s)
            self._steps = DECODE_STEPS if message.step == message.num_inference_steps else IDLE_STEPS

    def limit(self) -> Limit:
        """Limit on the wait for the next message, from now on."""
        self._listening = self._now()
        late = DeadlineExceeded("the deadline passed before the video was done; the work on it was stopped")
        limits = [(self.deadline.left_s(), late), self._servers_silence(), self._works_silence()]
        left_s, error = min(limits, key=lambda limit: limit[0])
        return Limit(timeout(max(0.0, left_s)), error)

    def _servers_silence(self) -> tuple[float, ClientError]:
        patience_s = self._idle_limit_s if self._beats else math.inf
        text = f"the server gave no sign of life for {patience_s:.0f} s; the request was cancelled"
        return patience_s, Unavailable(text)

    def _works_silence(self) -> tuple[float, ClientError]:
        if self._longest_step_s is None:
            return math.inf, Unavailable("no step yet")
        patience_s = max(self._idle_limit_s, self._steps * self._longest_step_s)
        text = f"the server told nothing for {patience_s:.0f} s after a step; the request was cancelled"
        return patience_s - self._waited_s, Unavailable(text)
