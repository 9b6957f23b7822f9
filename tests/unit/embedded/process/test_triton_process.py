"""What one tritonserver has to itself, its log and its ports, and a start for which the machine has too little."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from embedded.cleanup import Belongings
from embedded.errors import ServerError
from embedded.options import ServerOptions
from embedded.ports import check_listening
from embedded.process import libc, triton_process
from embedded.process.triton_process import TritonProcess
from wan_t2v.operate.model_control import ControlAddress


@pytest.fixture
def belongings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Belongings]:
    """Those of a program in tritonserver's place, which ends at once."""
    monkeypatch.setattr(triton_process, "installed_wheel", lambda: SimpleNamespace(environment=lambda: {}))
    linked = SimpleNamespace(link=lambda path, wheel, repository: SimpleNamespace(libraries=()))
    monkeypatch.setattr(triton_process, "ServerFolder", linked)
    monkeypatch.setattr(triton_process, "command_line", lambda *_, **__: ["/bin/true"])
    belongings = Belongings.acquire(tmp_path)
    yield belongings
    belongings.remove()


NO_FORK = [
    (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "Resource temporarily unavailable"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
    (subprocess.SubprocessError("Exception occurred in preexec_fn."), "Exception occurred in preexec_fn."),
]


@pytest.mark.parametrize(("error", "reason"), NO_FORK)
def test_a_machine_without_memory_for_a_fork_is_told_with_the_remedy(
    error: Exception, reason: str, belongings: Belongings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot_fork(*_: object, **__: object) -> None:
        raise error

    options = ServerOptions(log=tmp_path / "server.log")
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", cannot_fork)
        with pytest.raises(ServerError) as told:
            TritonProcess.start(options, belongings)
    assert str(told.value).startswith(f"tritonserver cannot be started ({reason}): free some memory, ")
    assert TritonProcess.start(options, belongings).process.wait() == 0, "the log is free for the next try"


def test_a_disk_that_is_full_at_the_start_is_told(
    belongings: Belongings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(address: ControlAddress, run_directory: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ControlAddress, "publish", no_space)
    with pytest.raises(ServerError, match=r"cannot be made in .* \(No space left on device\): free some space there$"):
        TritonProcess.start(ServerOptions(log=tmp_path / "server.log"), belongings)


def test_the_child_of_a_fork_asks_no_loader(
    belongings: Belongings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the child, a lock of the loader that another thread held stays locked for ever."""
    parent, load = os.getpid(), libc.ctypes.CDLL

    def load_in_parent(name: str | None) -> object:
        assert os.getpid() == parent, "the child of a fork would load a library"
        return load(name)

    monkeypatch.setattr(libc.ctypes, "CDLL", load_in_parent)
    libc.libc_function.cache_clear()
    assert TritonProcess.start(ServerOptions(log=tmp_path / "server.log"), belongings).process.wait() == 0


def test_a_log_that_another_server_writes_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "server.log"
    with triton_process._open_log(log) as opened:
        # tritonserver has it as its standard output, and holds it when the supervisor has closed it
        server = subprocess.Popen(
            [sys.executable, "-c", "print('a line', flush=True); input()"], stdin=-1, stdout=opened
        )
    with server:
        with pytest.raises(ServerError, match=r"server.log is another running server's: .* --log \(make: LOG="):
            triton_process._open_log(log)
        server.communicate(b"\n")
        assert log.read_text() == "a line\n"
        triton_process._open_log(log).close()
    assert log.read_text() == ""


def test_a_log_that_killed_processes_of_this_server_still_hold_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with triton_process._open_log(log) as opened:
        killed = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1, stdout=opened)
    with killed, ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(triton_process._open_log, log, wait_s=600.0)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        killed.communicate(b"\n")
        waiting.result(timeout=60).close()


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"cannot be written .*: .* --log \(make: LOG="):
        triton_process._open_log(tmp_path)


def test_a_port_that_another_program_took_meanwhile_is_told(root: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as ours,
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import socket; s = socket.create_server(('127.0.0.1', 0));"
                "print(s.getsockname()[1], flush=True); input()",
            ],
            stdin=-1,
            stdout=-1,
            text=True,
        ) as other,
    ):
        assert other.stdout is not None
        port, taken = ours.getsockname()[1], int(other.stdout.readline())
        check_listening({"GRPC_PORT": port}, os.getpid(), limit_s=0)
        with pytest.raises(ServerError, match=f"METRICS_PORT={taken} was taken by another program while the server"):
            check_listening({"GRPC_PORT": port, "METRICS_PORT": taken}, os.getpid(), limit_s=0.3)
        other.communicate("\n")


def test_a_server_that_ended_has_no_ports() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    with pytest.raises(ServerError, match="GRPC_PORT=8001 was taken"):
        check_listening({"GRPC_PORT": 8001}, ended.pid, limit_s=0)
