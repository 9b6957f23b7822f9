"""One tritonserver process: its start, its readiness, and its end with all of its children."""

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tritonclient.utils import InferenceServerException

from embedded.cleanup import SHARED_MEMORY, Belongings
from embedded.errors import ServerError
from embedded.folder import ServerFolder
from embedded.grpc_client import own_client
from embedded.log import first_error
from embedded.options import ServerOptions, command_line, environment
from embedded.ports import check_listening
from embedded.process.confinement import confine, prepare_fork
from embedded.tensor_check import MODEL, check_tensors, unload
from embedded.wheel import inherited_library_path, installed_wheel
from wan_t2v.operate.file_lock import try_lock
from wan_t2v.operate.model_control import ControlAddress
from wan_t2v.operate.own_server import http_status, without_proxy
from wan_t2v.operate.processes import group_lives, stub_pids
from wan_t2v.operate.run_directory import VARIABLE
from wan_t2v.operate.shared_memory import remove_regions

ANSWER_LIMIT_S = 2.0
KILLED_LIMIT_S = 5.0
KILLED_POLL_S = 0.02
ANOTHER_LOG = "choose another with --log (make: LOG=...)"


@dataclass(frozen=True)
class TritonProcess:
    """A started server."""

    options: ServerOptions
    folder: ServerFolder
    belongings: Belongings
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, options: ServerOptions, belongings: Belongings, *, log_wait_s: float = 0.0) -> "TritonProcess":
        """Start tritonserver; wait up to `log_wait_s` for a log that the last one still holds. Raises ServerError."""
        wheel = installed_wheel()
        try:
            folder = ServerFolder.link(belongings.folder, wheel, repository=options.repository)
            control = ControlAddress(options.hosts["http"], options.http_port, options.admin_key)
            control.publish(belongings.run_directory)
        except OSError as error:
            raise ServerError(
                f"the server's files cannot be made in {belongings.folder} ({error.strerror}): free some space there"
            ) from None
        with _open_log(options.log, wait_s=log_wait_s) as log:
            process = _start(
                command_line(options, wheel, folder, shm_prefix=belongings.shm_prefix),
                env={
                    **without_proxy(wheel.environment()),
                    "LD_LIBRARY_PATH": os.pathsep.join([*map(str, folder.libraries), *inherited_library_path()]),
                    **environment(options),
                    # overrides the caller's environment: servers must not share a run directory
                    VARIABLE: str(belongings.run_directory),
                },
                log=log,
                locks=belongings.locks,
            )
        return cls(options, folder, belongings, process)

    @property
    def pid(self) -> int:
        """Process id of tritonserver itself; its Python processes are its children."""
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code; None while the process runs, and the negative number of a signal that ended it."""
        return self.process.poll()

    def is_ready(self) -> bool:
        """Whether the server answers and has loaded every model. Raises ServerError if the process has ended."""
        if self.exit_code is not None:
            reason = self.first_error() or f"exit code {self.exit_code}"
            raise ServerError(f"the server did not start: {reason} (log: {self.options.log})")
        return _answers(f"http://{self.options.http_address}/v2/health/ready")

    def answers(self) -> bool:
        """Whether the server reports over HTTP or gRPC that it is alive, ready or not."""
        if _answers(f"http://{self.options.http_address}/v2/health/live"):
            return True
        with own_client(self.options) as client, contextlib.suppress(InferenceServerException):
            return bool(client.is_server_live(client_timeout=ANSWER_LIMIT_S))
        return False

    def check(self) -> None:
        """Raise ServerError unless it listens on its ports and its Python processes pass tensors unchanged."""
        check_listening(self.options.ports, self.pid)
        client = own_client(self.options)
        check_tensors(client)
        unload(client, headers=self.options.admin_header, is_gone=lambda: MODEL not in stub_pids(self.pid))

    def first_error(self) -> str | None:
        """Return the first relevant error of its log, with paths of the user's model repository."""
        error = first_error(self.options.log)
        return error and error.replace(str(self.folder.models), str(self.options.repository))

    def end(self) -> None:
        """Send SIGTERM, then SIGKILL to the whole process group, Python processes included."""
        if self.exit_code is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(self.options.stop_limit_s)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the whole process group: a server that is still loading models ignores SIGTERM."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        self._wait_for_the_group()
        remove_regions(SHARED_MEMORY, self.belongings.shm_prefix)

    def _wait_for_the_group(self) -> None:
        """Wait until the Python processes are gone: they outlive tritonserver and may still make shared memory."""
        deadline = time.monotonic() + KILLED_LIMIT_S
        while group_lives(self.pid) and time.monotonic() < deadline:
            time.sleep(KILLED_POLL_S)


def _start(
    command: list[str], *, env: dict[str, str], log: IO[bytes], locks: tuple[int, int]
) -> "subprocess.Popen[bytes]":
    """Start tritonserver. Raises ServerError, such as while the machine has too little memory for a fork."""
    prepare_fork()
    try:
        return subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=locks,  # locked while any of its processes lives
            start_new_session=True,  # Ctrl-C reaches only the supervisor, which stops the server
            preexec_fn=confine,
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ServerError(
            f"tritonserver cannot be started ({reason}): free some memory, allow more processes (ulimit -u), or, "
            "if a file is missing, run `make setup`"
        ) from None


def _open_log(log: Path, *, wait_s: float = 0.0) -> IO[bytes]:
    """Open and empty Triton's log. It stays locked while any of its processes lives. Raises ServerError."""
    deadline = time.monotonic() + wait_s
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        opened = log.open("ab")
        while not (locked := try_lock(opened.fileno())) and time.monotonic() < deadline:
            time.sleep(KILLED_POLL_S)
        if not locked:
            opened.close()
            raise ServerError(f"the log {log} is another running server's: {ANOTHER_LOG}")
        opened.truncate(0)
        return opened
    except OSError as error:
        raise ServerError(f"the log {log} cannot be written ({error.strerror}): {ANOTHER_LOG}") from None


def _answers(url: str) -> bool:
    try:
        return http_status(url, timeout_s=ANSWER_LIMIT_S) == 200
    except OSError:
        return False
