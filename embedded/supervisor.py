"""Keep one tritonserver: start it, start it again if it dies, have its models repaired, stop it, leave nothing.

Runs as a process of its own, so that the server ends with its caller whatever becomes of the caller: the caller holds
a pipe to the supervisor's standard input, and when that closes the supervisor stops the server. Events go to standard
output as JSON lines.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedded.errors import ServerError
from embedded.folder import temporary_folder
from embedded.leftovers import FOLDER_PREFIX, SHM_PREFIX, remove_leftovers
from embedded.log import was_told_to_stop
from embedded.options import ServerOptions
from embedded.repair import Repair
from embedded.triton_process import TritonProcess
from wan_t2v.operate.run_directory import RunDirectory

POLL_S = 0.25
WATCH_S = 1.0
STEADY_S = 60.0  # a server that served for so long did not die of its start
DEATHS_IN_A_ROW = 3  # of servers that did not; then the reason is not of the kind that passes


@dataclass
class Supervisor:
    """One server after another at the same address. `report` is told of every event."""

    options: ServerOptions
    report: Callable[[dict[str, Any]], None]
    stopping: bool = False
    _folder: Path | None = None
    _triton: TritonProcess | None = None
    _serving: bool = False

    def run(self) -> int:
        """Serve until told to stop. Returns an exit code; nothing of the server is left, whatever happened."""
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=temporary_folder()))
            remove_leftovers()
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
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _end_triton(self) -> None:
        """End the server and all of its processes; one that never served at once, since nobody waits for it."""
        if self._triton is not None:
            (self._triton.end if self._serving else self._triton.kill)()

    def _serve(self) -> None:
        """A server, and another for each that died. Raises ServerError if the first does not start, or none lives."""
        self._started()
        self._tell_ready("ready")
        deaths = 0
        while not self.stopping:
            began = time.monotonic()
            self._watch()
            if self.stopping:
                return
            deaths = 0 if time.monotonic() - began > STEADY_S else deaths + 1
            self._bury(deaths)
            while not self._started_again():
                deaths += 1
                self._bury(deaths)

    def _started_again(self) -> bool:
        """Whether a dead server's follower came up; why not is told."""
        try:
            self._started()
        except ServerError as error:
            self.report({"event": "not started again", "error": str(error)})
            return False
        self._tell_ready("started again")
        return True

    def _started(self) -> None:
        """A new server, checked and ready, or told to stop meanwhile. Raises ServerError."""
        self._serving = False
        self._triton = triton = TritonProcess.started(
            self.options, self._own_folder, run_directory=self._run_directory, shm_prefix=f"{SHM_PREFIX}{os.getpid()}_"
        )
        limit_s = self.options.start_limit_s
        deadline = time.monotonic() + limit_s
        while not triton.is_ready() and not self.stopping:
            if time.monotonic() > deadline:
                reason = triton.first_error() or "no error in its log"
                raise ServerError(f"not ready after {limit_s:g} s: {reason} (log: {self.options.log})")
            self._pause(POLL_S)
        if not self.stopping:
            triton.check()
            self._serving = True

    @property
    def _own_folder(self) -> Path:
        assert self._folder is not None, "it is made before a server is started"
        return self._folder

    @property
    def _run_directory(self) -> Path:
        return self._own_folder / "run"

    def _tell_ready(self, event: str) -> None:
        if self.stopping or self._triton is None:
            return
        options = self.options
        ports = {"grpc_port": options.grpc_port, "http_port": options.http_port, "metrics_port": options.metrics_port}
        process = {"pid": self._triton.pid, "run_directory": str(self._run_directory)}
        self.report({"event": event, "host": options.host, **ports, **process})

    def _watch(self) -> None:
        """Until told to stop, or the server is dead."""
        triton = self._triton
        if triton is None:
            return
        repair = Repair(self.options, triton.pid, run_directory=self._run_directory, report=self.report)
        while not self.stopping and triton.exit_code is None:
            repair.look()
            self._pause(WATCH_S)

    def _bury(self, deaths: int) -> None:
        """End what is left of a dead server. Raises ServerError if there is to be no other.

        There is none after one that was told to stop, or that died while it drained: its follower would not drain.
        """
        triton, log = self._triton, self.options.log
        if triton is None:
            return
        told = triton.exit_code is not None and was_told_to_stop(log)  # else it hangs, and is ended here
        self._end_triton()
        code = triton.exit_code
        if told or deaths >= DEATHS_IN_A_ROW or RunDirectory(self._run_directory).draining:
            times = "" if deaths <= 1 else f", {deaths} times in a row"
            raise ServerError(f"the server ended by itself{times}, exit code {code} (log: {log})")
        with contextlib.suppress(OSError):  # somebody removed it
            log.replace(died_log(log))
        self.report({"event": "server died", "exit_code": code, "log": str(died_log(log))})

    def _pause(self, seconds: float) -> None:
        """Sleep, but notice at once that the caller is gone."""
        if self.stopping:
            return
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        if readable and not os.read(sys.stdin.fileno(), 1):  # end of file
            self.stopping = True


def died_log(log: Path) -> Path:
    """Where the log of the last server that died is kept."""
    return log.with_name(f"{log.name}.died")


def main() -> int:
    """Read options as one line of JSON from standard input and supervise; used by `embedded.server`."""
    raw = json.loads(sys.stdin.readline())
    options = ServerOptions(**{**raw, "repository": Path(raw["repository"]), "log": Path(raw["log"])})
    supervisor = Supervisor(options, report=lambda event: print(json.dumps(event), flush=True))

    def stop(signum: int, frame: Any) -> None:
        supervisor.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
