"""What one tritonserver has to itself: its log and its ports."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedded.errors import ServerError
from embedded.ports import check_listening
from embedded.process import triton_process


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
