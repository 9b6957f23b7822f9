"""Limits on a stream's silence, after which the server counts as hung."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from wan_t2v_client.deadline import Deadline, timeout
from wan_t2v_client.errors import ClientError, DeadlineExceeded, ServerSilent
from wan_t2v_client.progress import Heartbeat, Progress

IDLE_LIMIT_S = 30.0  # the server sends a heartbeat every 5 s
IDLE_STEPS = 5
LOADING = "load"  # stage of a heartbeat while an expert is loaded, which may take long
DECODE_STEPS = 30  # decoding took 5 to 8 steps' time with guidance on, wan-mini at its smallest and largest sizes


class Limit(NamedTuple):
    """Seconds that the next message may take (None for no limit), and the error if none came."""

    seconds: float | None
    error: ClientError


class Watchdog:
    """Two limits on silence; the earlier one ends the wait. `now` is a steady clock.

    Only the time in which the caller waits counts, not the time in which it handles a message.

    Server limit: once a heartbeat has arrived, `idle_limit_s` without any message means that the process is dead.
    Before that, the request may not have reached the model yet. Then only the deadline and the connection's keepalive
    end the wait.

    Work limit: after a step, the next one must come within `idle_limit_s`, or within five times the longest step if
    that is longer, regardless of heartbeats. The longest step counts, not the last one, since a step that loads the
    other expert takes longer. After the last step the clip is decoded and encoded, so the limit is 30 steps. Heartbeats
    of the stage `load` reset this limit, since the server has its own limit on loading.
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
        """Record a received message."""
        if isinstance(message, Heartbeat):
            self._beats = True
            self._waited_s = 0.0 if message.stage == LOADING else self._waited_s + self._now() - self._listening
        else:
            self._waited_s = 0.0
            self._longest_step_s = max(self._longest_step_s or 0.0, message.step_s)
            self._steps = DECODE_STEPS if message.step == message.num_inference_steps else IDLE_STEPS

    def limit(self) -> Limit:
        """Return the limit on the wait for the next message, which begins now."""
        self._listening = self._now()
        late = DeadlineExceeded("the deadline passed before the video was done; the work on it was stopped")
        limits = [(self.deadline.left_s(), late), self._servers_silence(), self._works_silence()]
        left_s, error = min(limits, key=lambda limit: limit[0])
        return Limit(timeout(max(0.0, left_s)), error)

    def _servers_silence(self) -> tuple[float, ClientError]:
        patience_s = self._idle_limit_s if self._beats else math.inf
        text = f"the server gave no sign of life for {patience_s:.0f} s; the request was cancelled"
        return patience_s, ServerSilent(text)

    def _works_silence(self) -> tuple[float, ClientError]:
        if self._longest_step_s is None:
            return math.inf, ServerSilent("no step yet")
        patience_s = max(self._idle_limit_s, self._steps * self._longest_step_s)
        text = f"the server told nothing for {patience_s:.0f} s after a step; the request was cancelled"
        return patience_s - self._waited_s, ServerSilent(text)
