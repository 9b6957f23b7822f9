"""Kill a server's processes that received SIGSTOP: they live and hold their slots, but answer no one."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from wan_t2v.operate.processes import stubs

# Triton 2.51 marks such a process as unhealthy within a second, fails all its calls, and crashes when it continues.
PYTHON_S = 0.5  # so that two checks see it
SERVER_S = 3.0  # for tritonserver itself, which survives a shorter stop


@dataclass
class StoppedProcesses:
    """Check of one server for stopped processes. `report` is called for every process that is killed.

    A process under a debugger has another state and is left alone.
    """

    server_pid: int
    report: Callable[[dict[str, Any]], None]
    now: Callable[[], float] = time.monotonic
    _since: dict[int, float] = field(default_factory=dict)

    def end_python(self) -> None:
        """Kill each Python process that was stopped for PYTHON_S; its model is then reloaded as after a death."""
        of_model = {stub.pid: stub.model for stub in stubs(self.server_pid)}
        for pid in self._since.keys() - of_model.keys() - {self.server_pid}:
            del self._since[pid]
        for pid, model in of_model.items():
            if self._stopped_s(pid) >= PYTHON_S:
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
                self.report({"event": "process hangs", "why": f"stopped for {PYTHON_S:g} s", "model": model})

    def server_is_one(self) -> bool:
        """Check tritonserver again. Returns whether it has been stopped for SERVER_S."""
        return self._stopped_s(self.server_pid) >= SERVER_S

    def _stopped_s(self, pid: int) -> float:
        """Return the seconds since the first of the last checks in a row that saw the process stopped, else 0."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                return self.now() - self._since.setdefault(pid, self.now())
        self._since.pop(pid, None)
        return 0.0
