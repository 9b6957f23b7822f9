"""Run an embedded server as a context: `with running_server() as server: ... server.grpc_url ...`."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from embedded.errors import ServerError
from embedded.options import ServerOptions


@dataclass(frozen=True)
class Server:
    """A ready server. `supervisor_pid` is that of the process that keeps it.

    `run_directory` is what `python -m wan_t2v.operate --run-directory` wants.
    """

    grpc_url: str
    http_url: str
    metrics_url: str
    supervisor_pid: int
    run_directory: Path
    log: Path

    @property
    def pid(self) -> int:
        """Of tritonserver now: another one after it died. Raises ServerError while there is none."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.supervisor_pid).children():
                if child.status() != psutil.STATUS_ZOMBIE:
                    return child.pid
        raise ServerError("the server is being started again, or was stopped")


@contextlib.contextmanager
def running_server(
    options: ServerOptions | None = None, *, on_event: Callable[[dict[str, Any]], None] | None = None
) -> Iterator[Server]:
    """Start a server, yield it when it is ready, and stop it at the end, also if this process is killed.

    Raises ServerError with the first error of the server's log if it does not start.
    """
    options = (options or ServerOptions()).with_ports()
    raw = {**asdict(options), "repository": str(options.repository), "log": str(options.log)}
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "embedded.supervisor"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the caller; the supervisor follows when its pipe closes
    )
    assert supervisor.stdin is not None and supervisor.stdout is not None
    try:
        # not on the command line, which every user of the machine can read: the admin key is among the options
        supervisor.stdin.write(json.dumps(raw).encode() + b"\n")
        supervisor.stdin.flush()
        ready = _first_event(supervisor.stdout)
        if ready.get("event") != "ready":
            raise ServerError(ready.get("error", "the server's supervisor ended without a word"))
        _listen(supervisor.stdout, on_event or (lambda event: None))
        yield _server(ready, supervisor.pid, options.log)
    finally:
        _stop(supervisor, options.stop_limit_s + 10)


def _first_event(events: IO[bytes]) -> dict[str, Any]:
    line = events.readline()
    event: dict[str, Any] = json.loads(line) if line else {}
    return event


def _listen(events: IO[bytes], on_event: Callable[[dict[str, Any]], None]) -> None:
    """Read on, so that the supervisor never blocks on a full pipe, and pass its events on; its silence is one too."""

    def listen() -> None:
        for line in events:
            on_event(json.loads(line))
        on_event({"event": "ended"})

    threading.Thread(target=listen, daemon=True).start()


def _server(ready: dict[str, Any], supervisor_pid: int, log: Path) -> Server:
    host = f"[{ready['host']}]" if ":" in ready["host"] else ready["host"]
    return Server(
        grpc_url=f"{host}:{ready['grpc_port']}",
        http_url=f"http://{host}:{ready['http_port']}",
        metrics_url=f"http://{host}:{ready['metrics_port']}/metrics",
        supervisor_pid=supervisor_pid,
        run_directory=Path(ready["run_directory"]),
        log=log,
    )


def _stop(supervisor: subprocess.Popen[bytes], limit_s: float) -> None:
    assert supervisor.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        supervisor.stdin.close()
    try:
        supervisor.wait(limit_s)
    except subprocess.TimeoutExpired:
        supervisor.send_signal(signal.SIGKILL)  # the kernel then ends the server, see embedded/triton_process.py
        supervisor.wait()
