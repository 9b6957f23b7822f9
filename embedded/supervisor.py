"""Keep one tritonserver: start it, wait until it is ready, reload a model whose process died, stop it, leave nothing.

Runs as a process of its own, so that the server ends with its caller whatever becomes of the caller: the caller holds
a pipe to the supervisor's standard input, and when that closes the supervisor stops the server. Events go to standard
output as JSON lines.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from embedded.errors import ServerError
from embedded.log import first_error
from embedded.options import ServerOptions, command_line, environment
from embedded.retired import Regions, Retired
from embedded.wheel import installed_wheel
from wan_t2v.operate.processes import has_lost_a_process, models_short_of, stub_pids, stubs
from wan_t2v.operate.run_directory import VARIABLE

POLL_S = 0.25
WATCH_S = 1.0
RETRY_S = 10.0
CALL_LIMIT_S = 5.0
LOAD_LIMIT_S = 120.0
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's folder, nothing is created there
SHM_PREFIX = "wan_t2v_"
FOLDER_PREFIX = "wan-t2v-"


@dataclass
class Supervisor:
    """One server and what belongs to it. `report` is told of every event."""

    options: ServerOptions
    report: Callable[[dict[str, Any]], None]
    stopping: bool = False
    _folder: Path = field(init=False)
    _process: subprocess.Popen[bytes] = field(init=False)

    def run(self) -> int:
        """Serve until told to stop. Returns an exit code; nothing of the server is left, whatever happened."""
        self._folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))
        try:
            remove_leftovers()
            self._start()
            self._wait_until_ready()
            self._watch()
        except ServerError as error:
            self.report({"event": "failed", "error": str(error)})
            return 1
        except Exception as error:
            self.report({"event": "failed", "error": f"the supervisor failed: {type(error).__name__}: {error}"})
            raise
        finally:
            self._stop()
        return 0

    def _start(self) -> None:
        wheel = installed_wheel()
        command = command_line(
            self.options,
            wheel,
            wheel.assemble_backends(self._folder),
            shm_prefix=self._shm_prefix,
        )
        self.options.log.parent.mkdir(parents=True, exist_ok=True)
        with self.options.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                # a directory of its own, whatever the caller's environment says: servers must not share one
                env={**wheel.environment(), **environment(self.options), VARIABLE: str(self._run_directory)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops the server in order
                preexec_fn=_die_with_parent,
            )

    @property
    def _run_directory(self) -> Path:
        return self._folder / "run"

    @property
    def _shm_prefix(self) -> str:
        return f"{SHM_PREFIX}{os.getpid()}_"

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.options.start_limit_s
        url = f"http://{_bracketed(self.options.host)}:{self.options.http_port}/v2/health/ready"
        started = time.monotonic()
        while self._process.poll() is not None or not _answers(url):
            if self.stopping:
                return
            if self._process.poll() is not None:
                reason = first_error(self.options.log) or f"exit code {self._process.returncode}"
                raise ServerError(f"the server did not start: {reason} (log: {self.options.log})")
            if time.monotonic() > deadline:
                reason = first_error(self.options.log) or "no error in its log"
                raise ServerError(
                    f"not ready after {self.options.start_limit_s:g} s: {reason} (log: {self.options.log})"
                )
            self._pause(POLL_S)
        options = self.options
        ports = {"grpc_port": options.grpc_port, "http_port": options.http_port, "metrics_port": options.metrics_port}
        seconds = round(time.monotonic() - started, 1)
        process = {"pid": self._process.pid, "run_directory": str(self._run_directory)}
        self.report({"event": "ready", "host": options.host, **ports, **process, "seconds": seconds})

    def _watch(self) -> None:
        """Until told to stop: a model that lost a process is unloaded and loaded again (a plain load does nothing)."""
        expected = {model: len(pids) for model, pids in self._living().items()}
        regions = Regions(SHARED_MEMORY)
        broken: dict[str, float] = {}  # model to when to try again: its reload failed, so Triton calls it unloaded
        while not self.stopping:
            if self._process.poll() is not None:
                code = self._process.returncode
                raise ServerError(f"the server ended by itself, exit code {code} (log: {self.options.log})")
            self._retired.end_idle()
            regions.look((stub.pid, stub.region) for stub in stubs(self._process.pid))
            for model in models_short_of(expected, self._living()):
                if time.monotonic() < broken.get(model, 0.0):
                    continue
                if model not in broken and not self._lost_a_process(model, expected):
                    continue  # somebody unloaded it on purpose, or is loading it
                if self._reloaded(model):
                    broken.pop(model, None)
                else:
                    broken[model] = time.monotonic() + RETRY_S
            self._pause(WATCH_S)

    @cached_property
    def _client(self) -> tritonclient.grpc.InferenceServerClient:
        return tritonclient.grpc.InferenceServerClient(f"{_bracketed(self.options.host)}:{self.options.grpc_port}")

    def _lost_a_process(self, model: str, expected: dict[str, int]) -> bool:
        return has_lost_a_process(model, expected, living=self._living, is_loaded=self._is_loaded)

    def _living(self) -> dict[str, set[int]]:
        return {model: pids - self._retired.pids for model, pids in stub_pids(self._process.pid).items()}

    @cached_property
    def _retired(self) -> Retired:
        return Retired(self._run_directory)

    def _is_loaded(self, model: str) -> bool:
        try:
            return bool(self._client.is_model_ready(model, client_timeout=CALL_LIMIT_S))
        except InferenceServerException:
            return False  # the server is ending or stuck: nothing to reload

    def _reloaded(self, model: str) -> bool:
        """Reload a model; True if it is back."""
        started = time.monotonic()
        self.report({"event": "died", "model": model})
        self._retired.add(self._living().get(model, ()))
        try:
            for change in (self._client.unload_model, self._client.load_model):
                change(model, headers=self.options.admin_header, client_timeout=LOAD_LIMIT_S)
        except InferenceServerException as error:
            self.report({"event": "not repaired", "model": model, "error": str(error)})
            return False
        self.report({"event": "repaired", "model": model, "seconds": round(time.monotonic() - started, 2)})
        return True

    def _pause(self, seconds: float) -> None:
        """Sleep, but notice at once that the caller is gone."""
        if self.stopping:
            return
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        if readable and not os.read(sys.stdin.fileno(), 1):  # end of file
            self.stopping = True

    def _stop(self) -> None:
        process = getattr(self, "_process", None)
        if process is not None:
            _end(process, self.options.stop_limit_s)
        remove_shared_memory(self._shm_prefix)
        shutil.rmtree(self._folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes], limit_s: float) -> None:
    """SIGTERM, then SIGKILL to the whole process group, stubs included."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(limit_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def remove_shared_memory(prefix: str) -> None:
    """Remove the shared memory that a server with this prefix left."""
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def remove_leftovers() -> None:
    """Remove what supervisors that no longer live (killed, or the machine's power lost) left behind."""
    for region in SHARED_MEMORY.glob(f"{SHM_PREFIX}*"):
        if _is_gone(region.name.removeprefix(SHM_PREFIX).partition("_")[0]):
            with contextlib.suppress(PermissionError):  # another user's
                region.unlink(missing_ok=True)
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        if _is_gone(folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]):
            shutil.rmtree(folder, ignore_errors=True)


def _is_gone(pid: str) -> bool:
    return pid.isdecimal() and not Path(f"/proc/{pid}").exists()


def _die_with_parent() -> None:
    """Ask the kernel to end the server if the supervisor is killed and cannot."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


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
