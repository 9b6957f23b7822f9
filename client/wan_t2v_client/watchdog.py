"""How long a stream may be silent before it counts as hung."""

import math
from typing import NamedTuple

from wan_t2v_client.deadline import Deadline, timeout
from wan_t2v_client.errors import ClientError, DeadlineExceeded, Unavailable
from wan_t2v_client.progress import Progress

IDLE_LIMIT_S = 30.0
IDLE_STEPS = 5
DECODE_STEPS = 30  # decoding took 5 to 8 steps' time with guidance on, wan-mini at its smallest and largest sizes


class Limit(NamedTuple):
    """Seconds that the next message may take (None: any), and what it means if none came."""

    seconds: float | None
    error: ClientError


class Watchdog:
    """Counts from the first message on: `idle_limit_s`, or the time of five of the longest steps if that is longer.

    Before the first message a request may be waiting for its turn, of which the server tells nothing, however long it
    takes; there only the deadline and the connection's keepalive end a wait. The longest step counts, not the last:
    one that loads the other expert takes longer. After the last step the clip is decoded and encoded, and nothing is
    told until that is done: there it is 30 steps.
    """

    def __init__(self, idle_limit_s: float, deadline: Deadline) -> None:
        self._idle_limit_s, self.deadline = idle_limit_s, deadline
        self._longest_step_s: float | None = None
        self._steps = IDLE_STEPS

    @property
    def progressed(self) -> bool:
        """Whether a step was told."""
        return self._longest_step_s is not None

    def told(self, progress: Progress) -> None:
        """A message came."""
        self._longest_step_s = max(self._longest_step_s or 0.0, progress.step_s)
        self._steps = DECODE_STEPS if progress.step == progress.num_inference_steps else IDLE_STEPS

    def limit(self) -> Limit:
        """For the next message."""
        left_s, patience_s = self.deadline.left_s(), self._patience_s()
        if left_s <= patience_s:
            text = "the deadline passed before the video was done; the work on it was stopped"
            return Limit(timeout(left_s), DeadlineExceeded(text))
        text = f"the server told nothing for {patience_s:.0f} s after a step; the request was cancelled"
        return Limit(patience_s, Unavailable(text))

    def _patience_s(self) -> float:
        if self._longest_step_s is None:
            return math.inf
        return max(self._idle_limit_s, self._steps * self._longest_step_s)
