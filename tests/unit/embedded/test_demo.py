"""`make demo` ends with what it started when it is told to."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from embedded import demo


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_and_the_client(
    number: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    previous = signal.getsignal(signal.SIGTERM)
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, previous))
    clients: list[subprocess.Popen[bytes]] = []
    stopped: list[bool] = []

    @contextlib.contextmanager
    def running_server(options: object) -> Iterator[SimpleNamespace]:
        try:
            yield SimpleNamespace(grpc_url="127.0.0.1:9")
        finally:
            stopped.append(True)

    def run(command: list[str], **options: object) -> None:
        with subprocess.Popen(["sleep", "600"]) as client:
            clients.append(client)
            try:
                os.kill(os.getpid(), number)
                client.wait()
            except BaseException:
                client.kill()  # as subprocess.run does
                raise

    monkeypatch.setattr(demo, "running_server", running_server)
    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=run, PIPE=subprocess.PIPE))
    assert demo.main(["--out", str(Path("out/none.mp4")), "x"]) == 130
    assert stopped == [True] and clients[0].returncode == -signal.SIGKILL


def test_a_request_that_is_refused_ends_the_demo_with_the_clients_code_and_no_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client says why on standard error, which is the demo's own."""
    refused = subprocess.CompletedProcess([], returncode=2, stdout="")
    monkeypatch.setattr(
        demo, "running_server", lambda options: contextlib.nullcontext(SimpleNamespace(grpc_url="127.0.0.1:9"))
    )
    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=lambda *_, **__: refused, PIPE=subprocess.PIPE))
    monkeypatch.setattr(demo, "signal", SimpleNamespace(signal=lambda *_: None, SIGTERM=0, default_int_handler=None))
    assert demo.main(["--frames", "16", "x"]) == 2
    assert capsys.readouterr().out == ""
