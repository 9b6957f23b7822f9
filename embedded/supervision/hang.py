"""Detect a tritonserver that lives but serves no one: it does not answer, or hangs in the middle of its crash."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CRASH_S = 5.0  # for a crash to end the process, after its stack trace
_CRASHED = re.compile(rb"^Signal \((?!2\)|15\))\d+\) received", re.MULTILINE)
_LONGEST_LINE = 64
HANG_S = 15.0  # without any answer; a healthy server's slowest answer takes a tenth of it


@dataclass
class Hang:
    """Hang detector of one server. `answers` asks it over all its protocols whether it is alive."""

    answers: Callable[[], bool]
    now: Callable[[], float] = time.monotonic
    _silent_since: float | None = None

    def is_seen(self) -> bool:
        """Ask the server again. Returns whether it has not answered for HANG_S."""
        if self.answers():
            self._silent_since = None
            return False
        if self._silent_since is None:
            self._silent_since = self.now()
        return self.now() - self._silent_since >= HANG_S

    @property
    def is_silent(self) -> bool:
        """Whether the last question had no answer."""
        return self._silent_since is not None


@dataclass
class Crash:
    """Crash detector of one server: it reads in the log that Triton received a fatal signal.

    Seen after a Python process hung: a thread's SIGABRT handler waited for ever, so that every call hung, while other
    threads still reported the server as alive.
    """

    log: Path
    now: Callable[[], float] = time.monotonic
    _read: int = 0
    _kept: bytes = b""
    _seen_at: float | None = None

    def is_stuck(self) -> bool:
        """Read the log further. Returns whether a fatal signal was logged at least CRASH_S ago."""
        if self._seen_at is None and _CRASHED.search(self._new()):
            self._seen_at = self.now()
        return self._seen_at is not None and self.now() - self._seen_at >= CRASH_S

    def _new(self) -> bytes:
        try:
            with self.log.open("rb") as log:
                log.seek(self._read)
                new = self._kept + log.read()
                self._read = log.tell()
        except OSError:  # the log was removed
            return b""
        self._kept = new[-_LONGEST_LINE:]
        return new
