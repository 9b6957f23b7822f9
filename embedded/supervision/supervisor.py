"""Supervise one tritonserver: start it, restart it if it dies, reload its models, stop it, and clean up.

Runs as its own process, so that the server ends with its caller even if the caller is killed. The caller holds a pipe
to the supervisor's standard input. When the pipe closes, the supervisor stops the server. Events go to standard output
as JSON lines.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedded.cleanup import Belongings, remove_leftovers
from embedded.errors import ServerError
from embedded.folder import temporary_folder
from embedded.log import was_told_to_stop
from embedded.options import ServerOptions
from embedded.process.open_files import LEAST, raise_limit
from embedded.process.stop_signals import stop_signals
from embedded.process.triton_process import TritonProcess
from embedded.supervision.background_check import BackgroundCheck
from embedded.supervision.check_failures import CheckFailures
from embedded.supervision.hang import HANG_S, Crash, Hang
from embedded.supervision.memory_restart import MemoryRestart
from embedded.supervision.model_watchdog import ModelWatchdog, count_processes
from embedded.supervision.restarts import Restarts
from embedded.supervision.still_start import STILL_S, StillStart, activity_of
from embedded.supervision.stopped_processes import SERVER_S, StoppedProcesses
from wan_t2v.operate.processes import stub_pids
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.operate.shared_memory import shared_memory_of

POLL_S = 0.25
WATCH_S = 1.0
LOG_WAIT_S = 60.0
ABORTED_STARTS = 2  # retries of a start that ends by a signal, which was seen only under load


@dataclass
class Supervisor:
    """Supervisor of successive servers at one address. `report` is called with every event."""

    options: ServerOptions
    report: Callable[[dict[str, Any]], None]
    stopping: bool = False
    _belongings: Belongings | None = None
    _triton: TritonProcess | None = None
    _serving: bool = False
    _processes: Mapping[str, int] | None = None
    _log_wait_s: float = 0.0

    def run(self) -> int:
        """Serve until told to stop. Returns an exit code; the server's processes and files are removed in any case."""
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
        """End the server, and remove its files and shared memory."""
        self._end_triton()
        if self._belongings is not None:
            self._belongings.remove()

    def _end_triton(self) -> None:
        """End the server and all of its processes; kill one that never served, since no caller waits for it."""
        triton, self._triton = self._triton, None  # first: its id may be another process group's by the next time
        if triton is not None:
            (triton.end if self._serving else triton.kill)()

    def _serve(self) -> None:
        """Run a server, and a new one whenever it dies. Raises ServerError if the first does not start."""
        self._start_first()
        self._tell_ready("ready")
        restarts = Restarts()
        while not self.stopping:
            restarts.record_ready()
            failures = CheckFailures(self.report)
            self._watch(failures)
            if self.stopping:
                return
            restarts.record_death()
            with failures.passed_over("the dead server's end"):
                self._after_death(restarts.pause_s)
            while not self._restart(restarts, failures):
                restarts.record_failure()

    def _start_first(self) -> None:
        """Start the first server; retry a start that ended by a signal. Raises ServerError with the log's error."""
        for left in reversed(range(ABORTED_STARTS + 1)):
            try:
                return self._start()
            except ServerError as error:
                if self._triton is None or (self._triton.exit_code or 0) >= 0 or not left:
                    raise
                self._end_triton()
                self.report({"event": "start aborted", "error": str(error), "tries_left": left})
        return None

    def _restart(self, restarts: Restarts, failures: CheckFailures) -> bool:
        """Start a server after a death. Returns False, with an event, if that failed; True also if told to stop."""
        self._wait(restarts.pause_s)
        try:
            if not self.stopping:
                if not self._own.are_there:
                    self._own.remake_folder()
                self._start()
        except Exception as error:  # whatever it is: a server that was ready once is never given up
            with failures.passed_over("the end of a start"):
                self._end_triton()
            reason = str(error) if isinstance(error, ServerError) else f"{type(error).__name__}: {error}"
            self.report({"event": "not started again", "error": reason})
            return False
        self._tell_ready("started again")
        return True

    def _start(self) -> None:
        """Start a server, and wait until it is ready and checked, or told to stop. Raises ServerError."""
        self._serving = False
        self._triton = triton = TritonProcess.start(self.options, self._own, log_wait_s=self._log_wait_s)
        # its processes, once killed, hold the log until the kernel has ended them, long on a busy machine
        self._log_wait_s = LOG_WAIT_S
        limit_s = self.options.start_limit_s
        deadline = time.monotonic() + limit_s
        still = StillStart(self.options.log, lambda: activity_of(triton.pid))
        while not triton.is_ready() and not self.stopping:
            if time.monotonic() > deadline:
                reason = triton.first_error() or "no error in its log"
                raise ServerError(f"not ready after {limit_s:g} s: {reason} (log: {self.options.log})")
            if still.is_seen():
                triton.kill()  # it then ended by a signal, so `_start_first` retries
                reason = triton.first_error() or f"nothing happened for {STILL_S:g} s"
                raise ServerError(f"the server did not start: {reason} (log: {self.options.log})")
            self._own.close_regions()
            self._pause(POLL_S)
        if not self.stopping:
            triton.check()
            self._own.close_regions()
            # before anyone is told that it is ready: a process that dies right after that is to be missed
            self._processes = count_processes(stub_pids(triton.pid))
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

    def _watch(self, failures: CheckFailures) -> None:
        """Watch the server until told to stop, or until it is dead. A check that fails does not end it."""
        triton = self._triton
        while triton is not None and triton.exit_code is None and not self.stopping:
            with failures.passed_over("processes"):
                watchdog = ModelWatchdog(
                    self.options,
                    triton.pid,
                    run_directory=self._run_directory,
                    report=self.report,
                    expected=self._processes,
                )
                models = BackgroundCheck(watchdog.check)  # a check waits while a model loads
                try:
                    self._look(triton, models, failures)
                finally:
                    models.leave(wait=not self.stopping)  # it must not touch the next server at this address
            if triton.exit_code is None:
                self._pause(WATCH_S)

    def _look(self, triton: TritonProcess, models: BackgroundCheck, failures: CheckFailures) -> None:
        hang, crash = Hang(triton.answers), Crash(self.options.log)
        stopped = StoppedProcesses(triton.pid, self.report)
        memory = MemoryRestart(lambda: shared_memory_of(triton.pid), RunDirectory(self._run_directory))
        while not self.stopping and triton.exit_code is None:
            with failures.passed_over("stopped processes"):
                stopped.end_python()
            with failures.passed_over("hang"):
                if why := _hangs(crash, stopped, hang):
                    self.report({"event": "server hangs", "why": why})
                    triton.kill()  # SIGTERM would hang as well
                    return
            with failures.passed_over("folder"):
                if not self._own.are_there:
                    self.report({"event": "folder removed", "folder": str(self._own.folder)})
                    triton.kill()  # its processes keep slots there, and start from there
                    return
            with failures.passed_over("memory"):
                if memory.is_due():
                    self.report({"event": "restarted for its memory", **memory.found})
                    triton.kill()  # no request runs; a new one gets a retryable error
                    return
            with failures.passed_over("models"):
                if not hang.is_silent:  # a silent server would only block the check
                    models.begin()
            with failures.passed_over("shared memory"):
                self._own.close_regions()
            self._pause(WATCH_S)

    def _after_death(self, pause_s: float) -> None:
        """Kill what is left of a dead server. Raises ServerError if it must not be restarted.

        That holds for one that was told to stop, or that died while it drained: a new server would not drain.
        """
        triton, log = self._triton, self.options.log
        if triton is None:
            return
        triton.kill()
        code, self._triton = triton.exit_code, None
        if was_told_to_stop(log) or RunDirectory(self._run_directory).draining:
            raise ServerError(f"the server ended by itself, exit code {code} (log: {log})")
        with contextlib.suppress(OSError):  # the log was removed
            log.replace(died_log(log))
        told = {"exit_code": code, "log": str(died_log(log)), "next_start_in_s": pause_s}
        self.report({"event": "server died", **told})

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.stopping and (left := deadline - time.monotonic()) > 0:
            self._pause(min(left, WATCH_S))

    def _pause(self, seconds: float) -> None:
        """Sleep, but wake up and stop as soon as the caller's pipe closes."""
        if self.stopping:
            return
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        if readable and not os.read(sys.stdin.fileno(), 1):  # end of file
            self.stopping = True


def _hangs(crash: Crash, stopped: StoppedProcesses, hang: Hang) -> str | None:
    """Return the reason why a living server must be killed; None if there is none."""
    if crash.is_stuck():
        return "in its crash"
    if stopped.server_is_one():
        return f"stopped for {SERVER_S:g} s"
    return f"without an answer for {HANG_S:g} s" if hang.is_seen() else None


def _hosts(options: ServerOptions) -> dict[str, str]:
    return {f"{protocol}_host": host for protocol, host in options.hosts.items()}


def _print(event: dict[str, Any]) -> None:
    """Print an event and its end of line in one call: two threads report. A caller that is gone ends nothing here."""
    with contextlib.suppress(BrokenPipeError):  # its other pipe is closed too, which stops the supervisor
        print(f"{json.dumps(event)}\n", end="", flush=True)


def died_log(log: Path) -> Path:
    """Return the path of the log of the last server that died."""
    return log.with_name(f"{log.name}.died")


def main() -> int:
    """Read options as one line of JSON from standard input and supervise; used by `embedded.server`."""
    raw = json.loads(sys.stdin.readline())
    parsed = {"repository": Path(raw["repository"]), "log": Path(raw["log"]), "models": tuple(raw["models"])}
    options = ServerOptions(**{**raw, **parsed})
    supervisor = Supervisor(options, report=_print)

    def stop(signum: int, frame: Any) -> None:
        supervisor.stopping = True

    for number in stop_signals():
        signal.signal(number, stop)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
