"""The threads of a streaming call."""

import threading

import pytest
from wan_t2v_client import Connection, TextToVideo, streaming

from tests.fakes.scripted_server import Pause, Step, Video, serving


def test_no_thread_of_a_stream_keeps_the_process_from_exiting() -> None:
    """tritonclient waits for its thread without a limit, and so would the interpreter."""
    before = set(threading.enumerate())
    with serving([Step(1), Pause()]) as server, TextToVideo(Connection(server.url)) as client:
        stream = client.stream("a red ball")
        next(stream)
        reading = [one for one in threading.enumerate() if one not in before and "_process_response" in one.name]
        assert len(reading) == 1 and reading[0].daemon
        stream.close()


def test_what_start_stream_raises_reaches_the_caller() -> None:
    class Broken:
        def start_stream(self, callback: object, **options: object) -> None:
            raise ValueError("no such header")

    with pytest.raises(ValueError, match="no such header"):
        streaming._start_stream(Broken(), print)


def test_a_stream_gives_what_the_server_made() -> None:
    with serving([Step(1), Video()]) as server, TextToVideo(Connection(server.url)) as client:
        assert client.generate("a red ball").video is not None
