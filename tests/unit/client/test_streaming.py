"""The threads of a streaming call."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from wan_t2v_client import Connection, TextToVideo, streaming

from tests.fakes.scripted_server import Pause, Step, Video, serving
from tests.waiting import wait_until

LEFT_OPEN = """
import sys
from wan_t2v_client import Connection, TextToVideo
stream = TextToVideo(Connection(sys.argv[1])).stream("a red ball")
for message in stream:
    raise ValueError("the caller's own")
"""


def test_no_thread_of_a_stream_keeps_the_process_from_exiting() -> None:
    """The interpreter would wait for it without a limit."""
    before = set(threading.enumerate())
    with serving([Step(1), Pause()]) as server, TextToVideo(Connection(server.url)) as client:
        stream = client.stream("a red ball")
        next(stream)
        reading = [one for one in threading.enumerate() if one not in before and one.name == "wan-t2v stream"]
        assert len(reading) == 1 and reading[0].daemon
        stream.close()


def test_a_process_ends_although_it_left_a_stream_open_and_the_server_notices(root: Path) -> None:
    """A failure in a loop over a stream keeps the stream until the interpreter ends."""
    with serving([Step(1), Pause()]) as server:
        done = subprocess.run(
            [sys.executable, "-c", LEFT_OPEN, server.url],
            env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'client'}"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1 and done.stderr.endswith("ValueError: the caller's own\n")
        assert server.cancelled.wait(60)


def test_a_call_whose_reader_cannot_start_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the server would work on for nobody."""

    def start(thread: threading.Thread) -> None:
        if thread.name == "wan-t2v stream":
            wait_until(lambda: server.requests)
            raise RuntimeError("can't start new thread")
        started(thread)

    started = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    with serving([Step(1), Pause()]) as server, TextToVideo(Connection(server.url)) as client:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            next(client.stream("a red ball"))
        assert server.cancelled.wait(60)


@pytest.mark.parametrize("never_closes", [True, False])
@pytest.mark.parametrize("finished", [True, False])
def test_a_stream_whose_end_grpc_never_reports_does_not_hold_the_caller(
    finished: bool, never_closes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a call that cannot be read to its end, nor a channel whose closing waits for it."""
    never = threading.Event()

    class Call:
        def __iter__(self) -> "Call":
            return self

        def __next__(self) -> Any:
            never.wait()
            raise StopIteration

        def cancel(self) -> None:
            pass

    channel = SimpleNamespace(close=never.wait if never_closes else lambda: None)
    stub = SimpleNamespace(ModelStreamInfer=lambda requests, **options: Call())
    monkeypatch.setattr(streaming, "CLOSE_LIMIT_S", 0.1)
    monkeypatch.setattr(streaming.service_pb2_grpc, "GRPCInferenceServiceStub", lambda channel: stub)
    monkeypatch.setattr(Connection, "open_channel", lambda connection: channel)
    stream = streaming._Stream(Connection(), request=None, timeout_s=None)
    caller = threading.Thread(target=stream.close, kwargs={"finished": finished}, daemon=True)
    caller.start()
    caller.join(60)
    held = caller.is_alive()
    never.set()
    assert not held


def test_a_stream_gives_what_the_server_made() -> None:
    with serving([Step(1), Video()]) as server, TextToVideo(Connection(server.url)) as client:
        assert client.generate("a red ball").video is not None
