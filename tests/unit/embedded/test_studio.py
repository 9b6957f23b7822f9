"""`make studio`: its exit code tells how it ended, and wrong settings are told before the server's long start."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from embedded import studio
from embedded.options import ServerOptions
from embedded.server import CommandEnd, Stop
from tests.child_process import child_process
from tests.waiting import has_ended, wait_until

Event = dict[str, Any]


class Studio:
    """The studio's command, with a server and a gateway that only live."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.options: list[ServerOptions] = []
        self.gateways: list[subprocess.Popen[bytes]] = []
        self.gateway = "import signal; signal.pause()"
        self.happens: Callable[[Callable[[Event], None], Stop], None] = lambda on_event, stop: stop.set()

    @contextlib.contextmanager
    def running_server(
        self, options: ServerOptions, *, on_event: Callable[[Event], None], stop: Stop
    ) -> Iterator[SimpleNamespace]:
        self.options.append(options)
        self.happens(on_event, stop)
        yield SimpleNamespace(grpc_url="127.0.0.1:9")
        on_event({"event": "ended"})  # as each supervisor does when it is stopped

    def start_gateway(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        self.gateways.append(subprocess.Popen([sys.executable, "-c", self.gateway], **options))
        return self.gateways[-1]

    def run(self, *arguments: object) -> int:
        return studio.main(["--port", "0", "--data", str(self.folder / "data"), *map(str, arguments)])


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    made = Studio(tmp_path)
    monkeypatch.setenv(studio.CHECKPOINTS, str(tmp_path))
    monkeypatch.setattr(CommandEnd, "heed_signals", lambda end: None)
    monkeypatch.setattr(studio, "running_server", made.running_server)
    replaced = SimpleNamespace(Popen=made.start_gateway, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(studio, "subprocess", replaced)
    return made


@pytest.mark.parametrize("event", [{"event": "failed", "error": "it ended by itself"}, {"event": "ended"}])
def test_a_server_that_failed_for_good_is_a_failure(
    made: Studio, event: Event, capsys: pytest.CaptureFixture[str]
) -> None:
    made.happens = lambda on_event, stop: on_event(event)
    assert made.run() == 1
    told = " ".join(f"{key}={value}" for key, value in event.items())
    assert capsys.readouterr().err == f"starting the server and the gateway ...\n{told}\nstopping ...\n"
    assert [gateway.poll() is not None for gateway in made.gateways] == [True]


def test_a_stop_is_none(made: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    assert made.run() == 0
    assert "event=" not in capsys.readouterr().err


def test_a_gateway_that_ends_is_named_with_its_exit_code(made: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    made.happens = lambda on_event, stop: None
    made.gateway = "raise SystemExit(3)"
    assert made.run() == 1
    assert "error: the gateway ended with exit code 3; its messages are above\n" in capsys.readouterr().err


def test_a_server_that_is_repaired_ends_nothing(made: Studio) -> None:
    def happens(on_event: Callable[[Event], None], stop: Stop) -> None:
        for event in ("server died", "started again"):
            on_event({"event": event})
            assert not stop.is_set()
        stop.set()

    made.happens = happens
    assert made.run() == 0


def test_the_log_is_a_second_studios_to_choose(made: Studio) -> None:
    assert made.run() == made.run("--log", made.folder / "second.log") == 0
    assert [options.log for options in made.options] == [Path("build/studio-server.log"), made.folder / "second.log"]


def test_a_port_that_is_none_is_told_before_the_start(made: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    assert made.run("--port", 80800) == 1
    assert capsys.readouterr().err == "error: PORT=80800 is no port; accepted: 1 to 65535, or 0 for a free one\n"
    assert not made.options


def test_data_that_cannot_be_written_is_told_before_the_start(made: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    (made.folder / "data").write_text("a file")
    assert made.run() == 1
    told = f"error: the folder {made.folder}/data/generations cannot be written (Not a directory): choose another "
    assert capsys.readouterr().err == f"{told}with --data (make: DATA=...)\n"
    assert not made.options


STUDIO = """
import contextlib, os, signal, subprocess, sys
from types import SimpleNamespace
from embedded import studio

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may be run by nohup

@contextlib.contextmanager
def running_server(options, *, on_event, stop):
    yield SimpleNamespace(grpc_url="127.0.0.1:9")

def start_gateway(command, **options):
    gateway = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, **options)
    print(gateway.pid, flush=True)
    return gateway

os.environ[studio.CHECKPOINTS] = sys.argv[1]
studio.running_server = running_server
studio.subprocess = SimpleNamespace(Popen=start_gateway, TimeoutExpired=subprocess.TimeoutExpired)
sys.exit(studio.main(["--port", "0", "--data", sys.argv[1]]))
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_the_gateway_ends_with_the_studio_however_that_ends(
    number: signal.Signals, code: int, root: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", STUDIO, str(tmp_path)]
    with child_process(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        gateway = psutil.Process(int(process.stdout.readline()))
        process.send_signal(number)
        process.wait(60)
    assert process.returncode == code
    wait_until(lambda: has_ended(gateway))
