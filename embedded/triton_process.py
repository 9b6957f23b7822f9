"""One tritonserver process: started with everything it needs, asked whether it is ready, ended with all of its own."""

import contextlib
import ctypes
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from embedded.errors import ServerError
from embedded.leftovers import remove_shared_memory
from embedded.log import first_error
from embedded.options import ServerOptions, command_line, environment
from embedded.wheel import installed_wheel
from wan_t2v.operate.own_server import http_status, without_proxy
from wan_t2v.operate.run_directory import VARIABLE


@dataclass(frozen=True)
class TritonProcess:
    """A started server. `shm_prefix` begins the names of its shared memory."""

    options: ServerOptions
    shm_prefix: str
    process: subprocess.Popen[bytes]

    @classmethod
    def started(cls, options: ServerOptions, folder: Path, *, run_directory: Path, shm_prefix: str) -> "TritonProcess":
        """Start it; `folder` is for what the server needs on disk. Raises ServerError."""
        wheel = installed_wheel()
        command = command_line(options, wheel, wheel.assemble_backends(folder), shm_prefix=shm_prefix)
        options.log.parent.mkdir(parents=True, exist_ok=True)
        with options.log.open("wb") as log:
            process = subprocess.Popen(
                command,
                # a directory of its own, whatever the caller's environment says: servers must not share one
                env={**without_proxy(wheel.environment()), **environment(options), VARIABLE: str(run_directory)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops the server in order
                preexec_fn=die_with_parent,
            )
        return cls(options, shm_prefix, process)

    @property
    def pid(self) -> int:
        """Of tritonserver itself; its Python processes are its children."""
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; below zero for the signal that ended it."""
        return self.process.poll()

    def is_ready(self) -> bool:
        """Whether it answers and has loaded every model. Raises ServerError if it ended instead."""
        if self.exit_code is not None:
            reason = first_error(self.options.log) or f"exit code {self.exit_code}"
            raise ServerError(f"the server did not start: {reason} (log: {self.options.log})")
        return _answers(f"http://{bracketed(self.options.host)}:{self.options.http_port}/v2/health/ready")

    def end(self) -> None:
        """SIGTERM, then SIGKILL to the whole process group, Python processes included; nothing of it is left."""
        if self.exit_code is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(self.options.stop_limit_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        remove_shared_memory(self.shm_prefix)


def die_with_parent() -> None:
    """Ask the kernel to end this process if its parent is killed and cannot."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def bracketed(host: str) -> str:
    """The host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def _answers(url: str) -> bool:
    try:
        return http_status(url, timeout_s=2.0) == 200
    except OSError:
        return False
