"""Run an embedded server as a context: `with running_server() as server: ... server.grpc_url ...`."""

import contextlib
import errno
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from embedded.errors import ServerError, StartStopped
from embedded.folder import check_repository, temporary_folder
from embedded.options import ServerOptions
from embedded.ports import url_host
from embedded.process.stop_signals import stop_signals

STOP_POLL_S = 0.1
NOBODY_READS = (errno.EPIPE, errno.EIO)  # of a pipe's other end, and of a terminal that was closed


@dataclass(frozen=True)
class Server:
    """A ready server. `supervisor_pid` is the id of the process that supervises it.

    `run_directory` is the argument of `python -m wan_t2v.operate --run-directory`.
    """

    grpc_url: str
    http_url: str
    metrics_url: str
    supervisor_pid: int
    run_directory: Path
    log: Path

    @property
    def pid(self) -> int:
        """Process id of the current tritonserver, which changes after a restart. Raises ServerError if none runs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.supervisor_pid).children():
                if child.status() != psutil.STATUS_ZOMBIE:
                    return child.pid
        raise ServerError("the server is being started again, or was stopped")


class Stop:
    """A request to stop, which a signal's handler may set.

    A handler runs in the middle of anything, such as of `wait`, or of the handler of a signal just before it. With
    `threading.Event` it would then wait for a lock that its own thread holds. This class has no lock.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def set(self) -> None:
        """Request the stop, and wake up who waits for it."""
        self._is_set = True
        with contextlib.suppress(BlockingIOError):  # full of earlier requests
            os.write(self._writer, b"\0")

    def is_set(self) -> bool:
        """Whether the stop was requested."""
        return self._is_set

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the request, for at most `seconds`. Returns whether it came."""
        if not self._is_set:
            poll = select.poll()
            poll.register(self._reader, select.POLLIN)  # nobody reads, so it stays readable
            poll.poll(None if seconds is None else 1e3 * seconds)
        return self._is_set


@dataclass
class CommandEnd:
    """The end of a command that runs a server: `stop` is set by a signal, or since the server ended by itself."""

    stop: Stop = field(default_factory=Stop)
    by_itself: bool = False

    def heed_signals(self) -> None:
        """Let Ctrl-C, SIGTERM and SIGHUP set `stop`."""
        for number in stop_signals():
            signal.signal(number, lambda signum, frame: self.stop.set())

    def tell(self, event: dict[str, Any]) -> None:
        """Print an event of the supervisor to standard error. Sets `stop` if the server ended by itself."""
        if event["event"] == "ended" and self.stop.is_set():
            return  # the expected end of a stop
        if event["event"] in ("failed", "ended"):  # before it is printed, which waits for whoever reads
            self.by_itself = True
            self.stop.set()
        say(" ".join(f"{key}={value}" for key, value in event.items()))


def say(text: str) -> None:
    """Print a line to standard error. It is lost if it cannot be written: no server depends on who reads that."""
    try:
        print(text, file=sys.stderr)
    except OSError as error:
        if error.errno in NOBODY_READS:  # at exit Python would try once more, and change the exit code
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stderr.fileno())
            os.close(null)


@contextlib.contextmanager
def running_server(
    options: ServerOptions | None = None,
    *,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    stop: Stop | None = None,
) -> Iterator[Server]:
    """Start a server, yield it when it is ready, and stop it at the end, also if this process is killed.

    `on_event` receives the supervisor's later events, in another thread. Raises ServerError with the first error of
    the server's log if it does not start, and StartStopped if `stop` was set before it was ready.
    """
    options = (options or ServerOptions()).with_ports()
    check_repository(options.repository)
    temporary_folder()
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "embedded.supervision.supervisor"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches only the caller; the supervisor ends when its pipe closes
    )
    assert supervisor.stdin is not None and supervisor.stdout is not None
    try:
        # Not on the command line, which every user of the machine can read: the options have the admin key.
        raw = {**asdict(options), "repository": str(options.repository), "log": str(options.log)}
        supervisor.stdin.write(json.dumps(raw).encode() + b"\n")
        supervisor.stdin.flush()
        ready = _first_event(_listen(supervisor.stdout, on_event or (lambda event: None)), stop)
        if ready.get("event") != "ready":
            unsaid = f"the server's supervisor ended without a message; see {options.log}, or start again"
            raise ServerError(ready.get("error", unsaid))
        yield _server(ready, supervisor.pid, options.log)
    finally:
        _stop(supervisor, options.stop_limit_s + 10)


def _listen(events: IO[bytes], on_event: Callable[[dict[str, Any]], None]) -> "queue.SimpleQueue[dict[str, Any]]":
    """Read the supervisor's events in a thread, so that it never blocks on a full pipe.

    The result of the start goes into the returned queue: `ready`, `failed`, or an empty event if the supervisor ended.
    Other events go to `on_event`. If the supervisor ends after the server was ready, that is the event `ended`.
    """
    first: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen() -> None:
        start: dict[str, Any] | None = None
        for line in events:
            event: dict[str, Any] = json.loads(line)
            if start is None and event["event"] in ("ready", "failed"):
                start = event
                first.put(start)
            else:
                on_event(event)
        if start is None:
            first.put({})
        elif start["event"] == "ready":
            on_event({"event": "ended"})

    threading.Thread(target=listen, daemon=True).start()
    return first


def _first_event(first: "queue.SimpleQueue[dict[str, Any]]", stop: Stop | None) -> dict[str, Any]:
    while stop is None or not stop.is_set():
        with contextlib.suppress(queue.Empty):
            return first.get(timeout=STOP_POLL_S)
    raise StartStopped


def _server(ready: dict[str, Any], supervisor_pid: int, log: Path) -> Server:
    grpc, http, metrics = (
        f"{url_host(ready[f'{protocol}_host'])}:{ready[f'{protocol}_port']}" for protocol in ("grpc", "http", "metrics")
    )
    return Server(
        grpc_url=grpc,
        http_url=f"http://{http}",
        metrics_url=f"http://{metrics}/metrics",
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
        supervisor.send_signal(signal.SIGKILL)  # the kernel then ends the server, see triton_process.py
        supervisor.wait()
