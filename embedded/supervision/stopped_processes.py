"""End the processes of a server that somebody stopped (SIGSTOP): they live, hold their places and answer nobody."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from wan_t2v.operate.processes import stubs

# Triton 2.51 calls such a process unhealthy within a second, fails all of its calls, and crashes when it goes on.
PYTHON_S = 0.5  # so that it is seen at two looks
SERVER_S = 3.0  # of tritonserver itself, which is none the worse for a shorter stop


@dataclass
class StoppedProcesses:
    """Looks at one server. `report` is told of every process that is ended.

    A process that a debugger holds has another state and is left alone.
    """

    server_pid: int
    report: Callable[[dict[str, Any]], None]
    now: Callable[[], float] = time.monotonic
    _since: dict[int, float] = field(default_factory=dict)

    def end_python(self) -> None:
        """End each Python process that was stopped for a while; its model is loaded again as after a death."""
        of_model = {stub.pid: stub.model for stub in stubs(self.server_pid)}
        for pid in self._since.keys() - of_model.keys() - {self.server_pid}:
            del self._since[pid]
        for pid, model in of_model.items():
            if self._stopped_s(pid) >= PYTHON_S:
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
                self.report({"event": "process hangs", "why": f"stopped for {PYTHON_S:g} s", "model": model})

    def server_is_one(self) -> bool:
        """Look once more at tritonserver. True if it has been stopped for so long that it ought to be ended."""
        return self._stopped_s(self.server_pid) >= SERVER_S

    def _stopped_s(self, pid: int) -> float:
        """Seconds since the first look at which it was stopped, if it was stopped at each look since."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                return self.now() - self._since.setdefault(pid, self.now())
        self._since.pop(pid, None)
        return 0.0
