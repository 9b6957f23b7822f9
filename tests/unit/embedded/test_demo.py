"""`make demo` ends with what it started when it is told to."""

import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from embedded import demo
from embedded.options import ServerOptions
from tests.child_process import child_process
from tests.waiting import has_ended, wait_until

DEMO = """
import contextlib, signal, subprocess, sys
from types import SimpleNamespace
from embedded import demo

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may be run by nohup

@contextlib.contextmanager
def running_server(options):
    try:
        yield SimpleNamespace(grpc_url="127.0.0.1:9")
    finally:
        print("stopped", flush=True)

def run(command, **options):
    with subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL) as client:
        try:
            print(client.pid, flush=True)
            client.wait()
        except BaseException:
            client.kill()  # as subprocess.run does
            raise

demo.running_server, demo.subprocess = running_server, SimpleNamespace(run=run, PIPE=subprocess.PIPE)
sys.exit(demo.main(["x"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_server_and_the_client(number: int, root: Path) -> None:
    """In a process of its own: a signal to this one could end the whole run."""
    command = [sys.executable, "-c", DEMO]
    with child_process(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        client = psutil.Process(int(process.stdout.readline()))
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "stopped\n")
    wait_until(lambda: has_ended(client))


def test_the_client_ends_with_a_demo_that_is_killed(root: Path) -> None:
    program = DEMO.replace('["sleep", "600"], ', '["sleep", "600"], preexec_fn=options["preexec_fn"], ')
    with child_process([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        client = psutil.Process(int(process.stdout.readline()))
        process.kill()
    wait_until(lambda: has_ended(client))


def test_a_request_that_is_refused_ends_the_demo_with_the_clients_code_and_no_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client says why on standard error, which is the demo's own."""
    refused = subprocess.CompletedProcess([], returncode=2, stdout="")
    monkeypatch.setattr(
        demo, "running_server", lambda options: contextlib.nullcontext(SimpleNamespace(grpc_url="127.0.0.1:9"))
    )
    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=lambda *_, **__: refused, PIPE=subprocess.PIPE))
    assert demo.main(["--frames", "16", "x"]) == 2
    assert capsys.readouterr().out == ""


def test_the_log_is_a_second_demos_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    logs, sent = [], []

    def running_server(options: ServerOptions) -> contextlib.nullcontext[SimpleNamespace]:
        logs.append(options.log)
        return contextlib.nullcontext(SimpleNamespace(grpc_url="127.0.0.1:9"))

    def run(command: list[str], **streams: object) -> subprocess.CompletedProcess[str]:
        sent.append(command)
        return subprocess.CompletedProcess(command, returncode=3, stdout="")

    monkeypatch.setattr(demo, "running_server", running_server)
    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=run, PIPE=subprocess.PIPE))
    assert demo.main(["x"]) == demo.main(["--log", "second.log", "x"]) == 3
    assert logs == [Path("build/demo-server.log"), Path("second.log")]
    assert not [command for command in sent if "--log" in command], "it is no option of the client"


@pytest.mark.parametrize("out", ["-", "/dev/stdout", "/dev/fd/1"])
def test_a_video_on_standard_output_is_refused_before_the_server_starts(
    out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo's own JSON object goes there."""
    monkeypatch.setattr(demo, "running_server", lambda options: pytest.fail("the server was started"))
    with pytest.raises(SystemExit) as end:
        demo.main(["--out", out, "x"])
    assert end.value.code == 2 and f"'{out}' would mix the video with" in capsys.readouterr().err


def test_the_client_is_given_the_files_name_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the slash of a folder, which the client refuses."""
    sent = []

    def run(command: list[str], **streams: object) -> subprocess.CompletedProcess[str]:
        sent.append(command)
        return subprocess.CompletedProcess(command, returncode=2, stdout="")

    monkeypatch.setattr(
        demo, "running_server", lambda options: contextlib.nullcontext(SimpleNamespace(grpc_url="127.0.0.1:9"))
    )
    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=run, PIPE=subprocess.PIPE))
    assert demo.main(["--out", "folder/", "x"]) == 2
    assert sent[0][sent[0].index("--out") + 1] == "folder/"
