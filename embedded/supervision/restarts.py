"""Restarts of a server that died: immediately if it had served for a while, else after growing pauses."""

import time
from collections.abc import Callable
from dataclasses import dataclass

STEADY_S = 60.0  # a server that served this long did not die of its start
PAUSES_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)  # before successive starts; the last one repeats


@dataclass
class Restarts:
    """Deaths and pauses of one address's servers. There is no limit on restarts once a server was ready."""

    now: Callable[[], float] = time.monotonic
    _in_a_row: int = 0
    _since: float = 0.0

    def record_ready(self) -> None:
        """Record that a server is ready."""
        self._since = self.now()

    def record_death(self) -> None:
        """Record that a ready server has died."""
        self._in_a_row = 1 if self.now() - self._since > STEADY_S else self._in_a_row + 1

    def record_failure(self) -> None:
        """Record that a restart failed."""
        self._in_a_row += 1

    @property
    def pause_s(self) -> float:
        """Seconds until the next start."""
        return PAUSES_S[min(self._in_a_row, len(PAUSES_S)) - 1]
