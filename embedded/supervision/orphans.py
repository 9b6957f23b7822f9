"""Orphans: the remaining processes of a model that was reloaded after one of its processes had died.

Triton 2.51 never ends them: they stay idle, and if counted as living they would hide the next death. They may finish
their current work; then they are killed here.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from wan_t2v.operate.run_directory import RUNNING, WAITING

IDLE_S = 10.0  # much longer than one expert pass on this engine
IDLE_CPU_S = 0.2  # an idle process uses less in that time


@dataclass
class _Activity:
    cpu_s: float
    at: float


class OrphanedProcesses:
    """Orphaned processes of one server; one that still works holds a slot in `run_directory`."""

    def __init__(self, run_directory: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._run_directory, self._now = run_directory, now
        # not by id alone, which the kernel gives to another process later; these know their start time
        self._activity: dict[psutil.Process, _Activity] = {}

    @property
    def pids(self) -> set[int]:
        """Orphans that may still live."""
        return {process.pid for process in self._activity if process.is_running()}

    def add(self, pids: Iterable[int]) -> None:
        """Add processes whose model is being reloaded."""
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._activity[psutil.Process(pid)] = _Activity(-IDLE_CPU_S, self._now())

    def end_idle(self) -> None:
        """Kill the orphans that have been idle for IDLE_S."""
        for process, seen in list(self._activity.items()):
            try:
                if not _lives(process):
                    del self._activity[process]
                    continue
                times = process.cpu_times()
                cpu_s = times.user + times.system
                if cpu_s - seen.cpu_s >= IDLE_CPU_S or self._holds_a_slot(process):
                    self._activity[process] = _Activity(cpu_s, self._now())
                elif self._now() - seen.at >= IDLE_S:
                    process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                del self._activity[process]

    def _holds_a_slot(self, process: psutil.Process) -> bool:
        files = [Path(file.path) for file in process.open_files()]
        return any(
            file.parent == self._run_directory and file.name.startswith((f"{RUNNING}-", f"{WAITING}-"))
            for file in files
        )


def _lives(process: psutil.Process) -> bool:
    """Whether a process lives; a zombie does not, and only root may read what it has open."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


class Regions:
    """Shared memory regions of the server's processes: Triton does not remove those of killed processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._of: dict[int, str] = {}

    def forget_dead(self, living: Iterable[tuple[int, str]]) -> None:
        """Remove the regions of processes that are no longer in `living` (pid and region name)."""
        now = {pid: region for pid, region in living if region}
        for pid in self._of.keys() - now.keys():
            with contextlib.suppress(OSError):
                (self._folder / self._of[pid]).unlink(missing_ok=True)
        self._of = now
