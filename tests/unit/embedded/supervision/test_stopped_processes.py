"""A process of the server that somebody stopped is ended after a while; one that goes on in time is left alone."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from embedded.supervision import stopped_processes
from embedded.supervision.stopped_processes import PYTHON_S, SERVER_S, StoppedProcesses
from tests.child_process import child_process
from wan_t2v.operate.processes import Stub

MODEL = "high_noise_expert"


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    with child_process([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        monkeypatch.setattr(stopped_processes, "stubs", lambda server: [Stub(started.pid, MODEL, "")])
        yield started
        started.kill()


def stop(process: subprocess.Popen[bytes]) -> None:
    psutil.Process(process.pid).suspend()
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        pass


def go_on(process: subprocess.Popen[bytes]) -> None:
    psutil.Process(process.pid).resume()
    while psutil.Process(process.pid).status() == psutil.STATUS_STOPPED:
        pass


def test_a_stopped_python_process_is_ended_and_told(process: subprocess.Popen[bytes]) -> None:
    events, now = list[dict[str, Any]](), [0.0]
    looking = StoppedProcesses(1, events.append, now=lambda: now[0])
    stop(process)
    looking.end_python()
    assert process.poll() is None and events == []
    now[0] += PYTHON_S
    looking.end_python()
    assert process.wait() == -9
    assert [(event["event"], event["model"]) for event in events] == [("process hangs", MODEL)]


def test_one_that_went_on_in_time_is_left_alone(process: subprocess.Popen[bytes]) -> None:
    events, now = list[dict[str, Any]](), [0.0]
    looking = StoppedProcesses(1, events.append, now=lambda: now[0])
    for change in (stop, go_on, stop):
        change(process)
        looking.end_python()
        now[0] += PYTHON_S
    assert process.poll() is None and events == []


def test_a_stopped_server_is_one_after_a_longer_while(process: subprocess.Popen[bytes]) -> None:
    now = [0.0]
    looking = StoppedProcesses(process.pid, lambda event: None, now=lambda: now[0])
    stop(process)
    for _ in range(2):
        assert not looking.server_is_one()
        now[0] += SERVER_S / 2
    assert looking.server_is_one()
