"""Server process of a benchmark, on free loopback ports, which always ends with the benchmark.

The program writes one JSON line to standard output when it is ready. It stops when its standard input closes, which
also happens if the benchmark is killed.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

START_LIMIT_S = 180.0
STOP_LIMIT_S = 60.0
HOST = "127.0.0.1"


class ServerProcessError(Exception):
    """A program that did not start. The message has the last lines of its log."""


@contextlib.contextmanager
def running_server_process(
    arguments: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    start_limit_s: float = START_LIMIT_S,
    stop_limit_s: float = STOP_LIMIT_S,
) -> Iterator[dict[str, Any]]:
    """Run `python arguments...`, yield its JSON line when it is ready, and stop it. Raises ServerProcessError."""
    with log.open("wb") as errors:
        program = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,  # so Ctrl-C reaches only the benchmark; the program stops when its pipe closes
        )
    try:
        yield _ready(program, log, start_limit_s)
    finally:
        _stop(program, stop_limit_s)


def _ready(program: "subprocess.Popen[bytes]", log: Path, limit_s: float) -> dict[str, Any]:
    assert program.stdout is not None
    late = threading.Timer(limit_s, lambda: _kill(program.pid))
    late.start()
    try:
        line = program.stdout.readline()
    finally:
        late.cancel()
    if not line:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
        raise ServerProcessError(
            "the program did not start within {:.0f} s; it said: {}".format(limit_s, " / ".join(said))
        )
    announcement: dict[str, Any] = json.loads(line)
    return announcement


def _stop(program: "subprocess.Popen[bytes]", limit_s: float) -> None:
    assert program.stdin is not None and program.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        program.stdin.close()
    try:
        program.wait(limit_s)
    except subprocess.TimeoutExpired:
        _kill(program.pid)
        program.wait()
    program.stdout.close()


def _kill(pid: int) -> None:
    """Kill a process and all its descendants, including those in other sessions."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        children = process.children(recursive=True)
        for one in [process, *children]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(children, timeout=5)


class Announcer:
    """The program's side: reserves standard output for the JSON line and redirects other output to standard error."""

    def __init__(self) -> None:
        self._line = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def wait_until_closed(self, announcement: Mapping[str, Any]) -> None:
        """Announce that the program is ready, and return when it must stop."""
        self._line.write(json.dumps(announcement) + "\n")
        self._line.flush()
        sys.stdin.buffer.read()


def end_within(seconds: float) -> None:
    """End this process after some seconds even if threads still run: a generation cannot be stopped."""

    def end() -> None:
        time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
