"""Faults during server starts: signals at several moments, damaged files, a small /dev/shm."""

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from wan_t2v_client import ClientError, Connection, TextToVideo

from embedded.cleanup import FOLDER_PREFIX, SHARED_MEMORY, SHM_PREFIX
from embedded.errors import ServerError
from embedded.options import ServerOptions
from embedded.server import running_server
from tests.child_process import child_process
from tests.server.conftest import WITHOUT_TORCH
from tests.stress.faults.harmed_repository import MountRefused
from tests.stress.faults.victim import SMALL, Outcome
from tests.waiting import becomes_true

STARTED_S, STOPPED_S = 600.0, 60.0
STUB_NAME, STUBS_OF_MOST = "triton_python_b", 5  # WITHOUT_TORCH has seven models with one or two processes each
Moment = Callable[[list[psutil.Process]], bool]
MOMENTS: dict[str, Moment] = {
    "its supervisor runs": bool,
    "tritonserver runs": lambda processes: any(_name(process) == "tritonserver" for process in processes),
    "a model is being loaded": lambda processes: _stubs(processes) > 0,
    "most models are being loaded": lambda processes: _stubs(processes) >= STUBS_OF_MOST,
}
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
LARGEST = {"height": 256, "width": 256, "num_frames": 81, "num_inference_steps": 1, "seed": 5, "guidance_scale": 1.0}


def stopped_starts(repository: Path, folder: Path) -> Iterator[Outcome]:
    """Stop or kill the launcher during a start. Nothing may be left behind."""
    for number in STOPS:
        for moment in MOMENTS:
            with serving(repository, folder / "start.log", models=WITHOUT_TORCH) as launcher:
                faults = _reached(launcher, moment)
                processes, began = descendants(launcher), time.monotonic()
                launcher.send_signal(number)
                told = _last_words(launcher)
            faults += _left_of(processes)
            if number != signal.SIGKILL and told[-1:] != ["stopped before it was ready"]:
                faults.append(f"it said {told[-1:]}")
            yield _outcome(f"{number.name} while {moment}", f"exit code {launcher.returncode}", faults, since=began)


def killed_starts(repository: Path, folder: Path) -> Iterator[Outcome]:
    """Kill processes while a model is loaded.

    After a kill of tritonserver the start must be retried. After a kill of a Python process it must succeed, or fail
    with an error.
    """
    for victim, number in (
        ("tritonserver", signal.SIGKILL),
        ("tritonserver", signal.SIGSEGV),
        (STUB_NAME, signal.SIGKILL),
    ):
        with serving(repository, folder / "start.log", models=WITHOUT_TORCH) as launcher:
            faults = _reached(launcher, "a model is being loaded")
            began = time.monotonic()
            next(p for p in descendants(launcher) if _name(p).startswith(victim)).send_signal(number)
            lines = list(_until_ready(launcher))
            processes = descendants(launcher)
            launcher.terminate()
            _last_words(launcher)
        faults += _left_of(processes)
        ended = lines[-1] if lines else ""
        if not ended.startswith(("ready: ",) if victim == "tritonserver" else ("ready: ", "error: ")):
            faults.append(f"the start ended with {lines[-2:]}")
        name = "a Python process" if victim == STUB_NAME else victim
        yield _outcome(f"{number.name} of {name} while a model is being loaded", ended[:80], faults, since=began)


def damaged_starts(repository: Path) -> Iterator[Outcome]:
    """Flip one bit of an installed file, or cut a manifest in half. The start must be refused with the file's name.

    `repository` must be a copy. Each file is restored afterwards.
    """
    for path in sorted(repository.glob("*/1/*")):
        if path.suffix == ".py" or not path.is_file() or path.name.startswith("."):
            continue
        whole, began, model = path.read_bytes(), time.monotonic(), path.parent.parent.name
        path.write_bytes(damaged(path.name, whole))
        try:
            told = refused_start(repository, model)
        finally:
            path.write_bytes(whole)
        name = f"{model}/1/{path.name}"
        faults = [] if name in told else [f"the file is not named: {told[:200]}"]
        yield _outcome(f"a damaged {name}", told[:100], faults, since=began)


def damaged(name: str, whole: bytes) -> bytes:
    """Return a file with one bit flipped in the middle, or the first half of a manifest, whose hash is not recorded."""
    middle = len(whole) // 2
    if name.endswith("manifest.json"):
        return whole[:middle]
    return whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]


def refused_start(repository: Path, model: str) -> str:
    """Start a server with this model alone, and return the error."""
    with tempfile.TemporaryDirectory() as folder:
        options = ServerOptions(repository=repository, log=Path(folder) / "server.log", models=(model,))
        try:
            with running_server(options):
                return "it started"
        except ServerError as error:
            return str(error)


def small_shared_memory(repository: Path, folder: Path, size_mib: int) -> Outcome:
    """Test a server with a small /dev/shm. A clip that does not fit must be refused, and small ones served.

    Raises MountRefused if this user may not mount a file system.
    """
    with serving(repository, folder / "small.log", before=in_small_shared_memory(size_mib)) as launcher:
        url, faults, began = ready_address(launcher), list[str](), time.monotonic()
        if url is None:
            return _outcome(f"{size_mib} MiB of /dev/shm", "it did not start", ["no start"], since=began)
        answers = [_asked(url, fields) for fields in (SMALL, LARGEST, SMALL)]
        ended = launcher.poll() is not None
        stop_serving(launcher)
    told = ["video" if isinstance(answer, bytes) else answer for answer in answers]
    faults += ["the launcher ended"] if ended else []
    faults += [] if answers[0] == answers[2] and told[0] == "video" else ["small clips are not served before and after"]
    faults += ["an answer names a region"] if any(SHM_PREFIX in answer for answer in told) else []
    return Outcome(f"{size_mib} MiB of /dev/shm", tuple(told), round(time.monotonic() - began, 1), tuple(faults))


def in_small_shared_memory(size_mib: int) -> list[str]:
    """Return the prefix that runs a command with its own small /dev/shm. Raises MountRefused."""
    inside = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size={size_mib}m tmpfs /dev/shm && exec "$@"', "sh"]
    done = subprocess.run([*inside, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise MountRefused(done.stderr.strip())
    return inside


def ready_address(launcher: subprocess.Popen[str]) -> str | None:
    """Wait for a start. Returns the gRPC address, or None if the start failed."""
    lines = list(_until_ready(launcher))
    served = bool(lines) and lines[-1].startswith("ready: gRPC ")
    return lines[-1].split()[2].rstrip(",") if served else None


def stop_serving(launcher: subprocess.Popen[str]) -> None:
    """Stop a launcher with SIGTERM, and wait for its end."""
    launcher.terminate()
    _last_words(launcher)


@contextlib.contextmanager
def serving(
    repository: Path, log: Path, *, models: tuple[str, ...] = (), before: list[str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run the command of `make serve` on free ports; `before` is a prefix of the command."""
    command = [
        *(before or []),
        sys.executable,
        "-m",
        "embedded.serve",
        "--repository",
        str(repository),
        "--log",
        str(log),
    ]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    command += ["--models", *models] if models else []
    with child_process(command, stderr=subprocess.PIPE, text=True) as launcher:
        try:
            yield launcher
        finally:
            launcher.kill()


def descendants(launcher: subprocess.Popen[Any]) -> list[psutil.Process]:
    """Return all descendants, parents before their children. Empty if the launcher has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(launcher.pid).children(recursive=True)
    return []


def _reached(launcher: subprocess.Popen[Any], moment: str) -> list[str]:
    """Wait for a moment of a start. Returns a fault if it is not reached."""
    reached = MOMENTS[moment]
    came = becomes_true(lambda: reached(descendants(launcher)), STARTED_S)
    return [] if came else [f"it never came so far that {moment}"]


def _last_words(launcher: subprocess.Popen[str]) -> list[str]:
    """Return the remaining output until all of the launcher's processes have ended."""
    try:
        return launcher.communicate(timeout=STOPPED_S)[1].strip().splitlines()
    except subprocess.TimeoutExpired:
        return [f"it did not end within {STOPPED_S:g} s"]


def _until_ready(launcher: subprocess.Popen[str]) -> Iterator[str]:
    """Yield the output until the launcher is ready or ends."""
    assert launcher.stderr is not None
    for line in launcher.stderr:
        yield line.strip()
        if line.startswith(("ready: ", "error: ")):
            return


def _left_of(processes: list[psutil.Process]) -> list[str]:
    """Return leftover processes, shared memory and folders. The first of `processes` is the supervisor."""
    faults = [] if becomes_true(lambda: not any(map(_lives, processes)), STOPPED_S) else ["processes are left"]
    if not processes:
        return faults
    pid, temporary = processes[0].pid, Path(tempfile.gettempdir())

    def left() -> list[Path]:
        return [*SHARED_MEMORY.glob(f"{SHM_PREFIX}{pid}_*"), *temporary.glob(f"{FOLDER_PREFIX}{pid}-*")]

    becomes_true(lambda: not left(), STOPPED_S)
    return [*faults, *(f"{path} is left" for path in left())]


def _asked(url: str, fields: dict[str, Any]) -> bytes | str:
    with TextToVideo(Connection(url)) as client:
        try:
            return client.generate_unary("a red ball", deadline_s=STARTED_S, **fields).video or b""
        except ClientError as error:
            return f"{type(error).__name__}: {error}"


def _outcome(name: str, told: str, faults: list[str], *, since: float) -> Outcome:
    return Outcome(name, (told,), round(time.monotonic() - since, 1), tuple(faults))


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def _stubs(processes: list[psutil.Process]) -> int:
    return sum(_name(process).startswith(STUB_NAME) for process in processes)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
