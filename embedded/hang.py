"""Notice a tritonserver that lives and answers nobody."""

import time
from collections.abc import Callable
from dataclasses import dataclass

HANG_S = 15.0  # without a single answer; the slowest answer of a healthy server takes a tenth of it


@dataclass
class Hang:
    """Looks at one server. `answers` asks it whether it is alive, by every protocol it has."""

    answers: Callable[[], bool]
    now: Callable[[], float] = time.monotonic
    _silent_since: float | None = None

    def is_seen(self) -> bool:
        """Ask once more. True if it has not answered for so long that it never will."""
        if self.answers():
            self._silent_since = None
            return False
        if self._silent_since is None:
            self._silent_since = self.now()
        return self.now() - self._silent_since >= HANG_S
