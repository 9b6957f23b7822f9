"""Notice a tritonserver that lives and serves nobody: it answers no question, or hangs in the middle of its crash."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CRASH_S = 5.0  # for a crash to end the process; it writes a stack trace before
_CRASHED = re.compile(rb"^Signal \((?!2\)|15\))\d+\) received", re.MULTILINE)
_LONGEST_LINE = 64
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

    @property
    def is_silent(self) -> bool:
        """Whether it did not answer when it was last asked."""
        return self._silent_since is not None


@dataclass
class Crash:
    """Reads on in a server's log, where Triton says that a signal ends it.

    Seen after a Python process hung: SIGABRT of one thread, whose handler waited for ever, while others still said that
    the server was alive and every call hung.
    """

    log: Path
    now: Callable[[], float] = time.monotonic
    _read: int = 0
    _kept: bytes = b""
    _seen_at: float | None = None

    def is_stuck(self) -> bool:
        """Look once more. True if the process ought to be dead by now."""
        if self._seen_at is None and _CRASHED.search(self._new()):
            self._seen_at = self.now()
        return self._seen_at is not None and self.now() - self._seen_at >= CRASH_S

    def _new(self) -> bytes:
        try:
            with self.log.open("rb") as log:
                log.seek(self._read)
                new = self._kept + log.read()
                self._read = log.tell()
        except OSError:  # somebody removed it
            return b""
        self._kept = new[-_LONGEST_LINE:]
        return new
