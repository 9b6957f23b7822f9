"""Keep one tritonserver: start it, start it again if it dies, have its models repaired, stop it, leave nothing.

Runs as a process of its own, so that the server ends with its caller whatever becomes of the caller: the caller holds
a pipe to the supervisor's standard input, and when that closes the supervisor stops the server. Events go to standard
output as JSON lines.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedded.cleanup import Belongings, remove_leftovers
from embedded.errors import ServerError
from embedded.folder import temporary_folder
from embedded.log import was_told_to_stop
from embedded.options import ServerOptions
from embedded.process.open_files import LEAST, raise_limit
from embedded.process.triton_process import TritonProcess
from embedded.supervision.background_check import BackgroundCheck
from embedded.supervision.hang import HANG_S, Crash, Hang
from embedded.supervision.memory_restart import MemoryRestart
from embedded.supervision.model_watchdog import ModelWatchdog
from embedded.supervision.restarts import Restarts
from embedded.supervision.still_start import STILL_S, StillStart, activity_of
from embedded.supervision.stopped_processes import SERVER_S, StoppedProcesses
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.operate.shared_memory import shared_memory_of

POLL_S = 0.25
WATCH_S = 1.0
ABORTED_STARTS = 2  # a start that ends by a signal, as under load alone, is tried again so often


@dataclass
class Supervisor:
    """One server after another at the same address. `report` is told of every event."""

    options: ServerOptions
    report: Callable[[dict[str, Any]], None]
    stopping: bool = False
    _belongings: Belongings | None = None
    _triton: TritonProcess | None = None
    _serving: bool = False

    def run(self) -> int:
        """Serve until told to stop. Returns an exit code; nothing of the server is left, whatever happened."""
        try:
            if (limit := raise_limit()) < LEAST:
                self.report({"event": "few open files", "limit": limit, "remedy": f"ulimit -n {LEAST} or more"})
            temporary = temporary_folder()
            remove_leftovers(temporary)
            self._belongings = Belongings.acquire(temporary)
            self._serve()
        except ServerError as error:
            self.report({"event": "failed", "error": str(error)})
            return 1
        except Exception as error:
            self.report({"event": "failed", "error": f"the supervisor failed: {type(error).__name__}: {error}"})
            raise
        finally:
            self._end()
        return 0

    def _end(self) -> None:
        """Leave nothing."""
        self._end_triton()
        if self._belongings is not None:
            self._belongings.remove()

    def _end_triton(self) -> None:
        """End the server and all of its processes; one that never served at once, since nobody waits for it."""
        if self._triton is not None:
            (self._triton.end if self._serving else self._triton.kill)()

    def _serve(self) -> None:
        """A server, and another for each that died. Raises ServerError if the first does not start."""
        self._start_first()
        self._tell_ready("ready")
        restarts = Restarts()
        while not self.stopping:
            restarts.serves()
            self._watch()
            if self.stopping:
                return
            restarts.died()
            self._after_death(restarts.pause_s)
            while not self._started_again(restarts):
                restarts.failed()

    def _start_first(self) -> None:
        """Raises ServerError with what the log says, unless the process was ended by a signal: that may pass."""
        for left in reversed(range(ABORTED_STARTS + 1)):
            try:
                return self._started()
            except ServerError as error:
                if self._triton is None or (self._triton.exit_code or 0) >= 0 or not left:
                    raise
                self._end_triton()
                self.report({"event": "start aborted", "error": str(error), "tries_left": left})
        return None

    def _started_again(self, restarts: Restarts) -> bool:
        """Whether a dead server's follower came up, or none is wanted any more; why not is told."""
        self._wait(restarts.pause_s)
        try:
            if not self.stopping:
                self._started()
        except ServerError as error:
            self._end_triton()
            self.report({"event": "not started again", "error": str(error)})
            return False
        self._tell_ready("started again")
        return True

    def _started(self) -> None:
        """A new server, checked and ready, or told to stop meanwhile. Raises ServerError."""
        self._serving = False
        self._triton = triton = TritonProcess.start(self.options, self._own)
        limit_s = self.options.start_limit_s
        deadline = time.monotonic() + limit_s
        still = StillStart(self.options.log, lambda: activity_of(triton.pid))
        while not triton.is_ready() and not self.stopping:
            if time.monotonic() > deadline:
                reason = triton.first_error() or "no error in its log"
                raise ServerError(f"not ready after {limit_s:g} s: {reason} (log: {self.options.log})")
            if still.is_seen():
                triton.kill()  # ended by a signal, as one that aborts by itself: the start is tried again
                reason = triton.first_error() or f"nothing happened for {STILL_S:g} s"
                raise ServerError(f"the server did not start: {reason} (log: {self.options.log})")
            self._own.close_regions()
            self._pause(POLL_S)
        if not self.stopping:
            triton.check()
            self._own.close_regions()
            self._serving = True

    @property
    def _own(self) -> Belongings:
        assert self._belongings is not None, "they are made before a server is started"
        return self._belongings

    @property
    def _run_directory(self) -> Path:
        return self._own.run_directory

    def _tell_ready(self, event: str) -> None:
        if self.stopping or self._triton is None:
            return
        options = self.options
        ports = {f"{protocol}_port": port for protocol, port in zip(options.hosts, options.ports.values(), strict=True)}
        process = {"pid": self._triton.pid, "run_directory": str(self._run_directory)}
        self.report({"event": event, **_hosts(options), **ports, **process})

    def _watch(self) -> None:
        """Until told to stop, or the server is dead."""
        triton = self._triton
        if triton is None:
            return
        watchdog = ModelWatchdog(self.options, triton.pid, run_directory=self._run_directory, report=self.report)
        models = BackgroundCheck(watchdog.check)  # it waits for a model while that loads
        try:
            self._look(triton, models)
        finally:
            models.leave(wait=not self.stopping)  # the next server is at the same address, and not this one's to repair

    def _look(self, triton: TritonProcess, models: BackgroundCheck) -> None:
        hang, crash = Hang(triton.answers), Crash(self.options.log)
        stopped = StoppedProcesses(triton.pid, self.report)
        memory = MemoryRestart(lambda: shared_memory_of(triton.pid), RunDirectory(self._run_directory))
        while not self.stopping and triton.exit_code is None:
            stopped.end_python()
            if why := _hangs(crash, stopped, hang):
                self.report({"event": "server hangs", "why": why})
                triton.kill()  # SIGTERM would wait for it, too
                return
            if not self._own.are_there:
                self.report({"event": "folder removed", "folder": str(self._own.folder)})
                triton.kill()  # its processes count requests there, and start from there
                self._own.remake_folder()
                return
            if memory.is_due():
                self.report({"event": "restarted for its memory", **memory.found})
                triton.kill()  # no request is under way; one that comes now is told to try again
                return
            if not hang.is_silent:  # else its questions would only keep us from looking
                models.begin()
            self._own.close_regions()
            self._pause(WATCH_S)

    def _after_death(self, pause_s: float) -> None:
        """End what is left of a dead server. Raises ServerError if there is to be no other.

        There is none after one that was told to stop, or that died while it drained: its follower would not drain.
        """
        triton, log = self._triton, self.options.log
        if triton is None:
            return
        triton.kill()
        code = triton.exit_code
        if was_told_to_stop(log) or RunDirectory(self._run_directory).draining:
            raise ServerError(f"the server ended by itself, exit code {code} (log: {log})")
        with contextlib.suppress(OSError):  # somebody removed it
            log.replace(died_log(log))
        told = {"exit_code": code, "log": str(died_log(log)), "next_start_in_s": pause_s}
        self.report({"event": "server died", **told})

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.stopping and (left := deadline - time.monotonic()) > 0:
            self._pause(min(left, WATCH_S))

    def _pause(self, seconds: float) -> None:
        """Sleep, but notice at once that the caller is gone."""
        if self.stopping:
            return
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        if readable and not os.read(sys.stdin.fileno(), 1):  # end of file
            self.stopping = True


def _hangs(crash: Crash, stopped: StoppedProcesses, hang: Hang) -> str | None:
    """Why a server that lives is to be ended; None if it is not."""
    if crash.is_stuck():
        return "in its crash"
    if stopped.server_is_one():
        return f"stopped for {SERVER_S:g} s"
    return f"without an answer for {HANG_S:g} s" if hang.is_seen() else None


def _hosts(options: ServerOptions) -> dict[str, str]:
    return {f"{protocol}_host": host for protocol, host in options.hosts.items()}


def _print(event: dict[str, Any]) -> None:
    """Print an event and its end of line in one call: two threads report."""
    print(f"{json.dumps(event)}\n", end="", flush=True)


def died_log(log: Path) -> Path:
    """Where the log of the last server that died is kept."""
    return log.with_name(f"{log.name}.died")


def main() -> int:
    """Read options as one line of JSON from standard input and supervise; used by `embedded.server`."""
    raw = json.loads(sys.stdin.readline())
    parsed = {"repository": Path(raw["repository"]), "log": Path(raw["log"]), "models": tuple(raw["models"])}
    options = ServerOptions(**{**raw, **parsed})
    supervisor = Supervisor(options, report=_print)

    def stop(signum: int, frame: Any) -> None:
        supervisor.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
