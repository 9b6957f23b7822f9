"""Notice a start that will never end: a Python process died while it loaded its model, and Triton waits for it."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

STILL_S = 10.0
# Seconds of processor time within STILL_S. Processes that wait for each other were seen to take 0.03; one that loads a
# model takes more than this also where it has to share its core with twenty others.
LEAST_CPU_S = 0.2


@dataclass
class StillStart:
    """Looks at a server that is not ready yet. `cpu_s` is the processor time that its processes have used so far."""

    log: Path
    cpu_s: Callable[[], float]
    now: Callable[[], float] = time.monotonic
    _known: tuple[float, int] = (-1.0, -1)
    _since: float = 0.0

    def is_seen(self) -> bool:
        """Look once more. True if nothing has been computed or told for so long that nothing will come of it."""
        cpu_s, told = self.cpu_s(), self._log_bytes()
        if abs(cpu_s - self._known[0]) >= LEAST_CPU_S or told != self._known[1]:
            self._known, self._since = (cpu_s, told), self.now()
        return self.now() - self._since >= STILL_S

    def _log_bytes(self) -> int:
        with contextlib.suppress(OSError):  # somebody removed it
            return self.log.stat().st_size
        return 0


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and of those that it started and that live."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                total += times.user + times.system
    return total
