"""Restarts of a server that died: at once if it had served for a while, else after growing pauses."""

import time
from collections.abc import Callable
from dataclasses import dataclass

STEADY_S = 60.0  # a server that served for so long did not die of its start
PAUSES_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)  # before the first start after a death, the second, and all after the last


@dataclass
class Restarts:
    """Deaths and pauses of one address's servers; a server that was ready once is never given up."""

    now: Callable[[], float] = time.monotonic
    _in_a_row: int = 0
    _since: float = 0.0

    def serves(self) -> None:
        """Record that a server is ready."""
        self._since = self.now()

    def died(self) -> None:
        """Record that the server that was ready is dead."""
        self._in_a_row = 1 if self.now() - self._since > STEADY_S else self._in_a_row + 1

    def failed(self) -> None:
        """Record that its follower did not come up."""
        self._in_a_row += 1

    @property
    def pause_s(self) -> float:
        """Seconds until the next start."""
        return PAUSES_S[min(self._in_a_row, len(PAUSES_S)) - 1]
