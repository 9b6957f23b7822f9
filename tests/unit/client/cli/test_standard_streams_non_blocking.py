"""Streams that another program made non-blocking, as those with an event loop do: they are waited for."""

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from wan_t2v_client.cli import standard_streams
from wan_t2v_client.cli.standard_streams import write_through

from tests.child_process import child_process
from tests.fakes.client_process import COMMAND
from tests.fakes.scripted_server import Video, serving
from tests.waiting import LIMIT_S

LONG_VIDEO = bytes(range(256)) * 1_000  # more than a pipe holds
FILL = b"x" * 4096


@contextlib.contextmanager
def non_blocking_pipe() -> Iterator[tuple[int, int]]:
    """Yield the reading and the writing end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        yield reading, writing
    finally:
        for descriptor in (reading, writing):
            with contextlib.suppress(OSError):  # the test closed it
                os.close(descriptor)


def fill(writing: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, FILL)


def read_to_the_end(reading: int) -> bytes:
    with os.fdopen(os.dup(reading), "rb") as pipe:
        return pipe.read().lstrip(b"x")


def test_what_a_full_pipe_did_not_take_is_written_once_it_takes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with non_blocking_pipe() as (reading, writing):
        read: list[bytes] = []
        monkeypatch.setattr(
            standard_streams, "_wait_until_writable", lambda descriptor: read.append(os.read(reading, 1 << 20))
        )
        write_through(writing, LONG_VIDEO)
        os.close(writing)
        assert b"".join(read) + read_to_the_end(reading) == LONG_VIDEO


def test_a_full_pipe_is_waited_for() -> None:
    with non_blocking_pipe() as (reading, writing):
        fill(writing)

        def write_and_close() -> None:
            try:
                write_through(writing, LONG_VIDEO)
            finally:
                os.close(writing)

        writer = threading.Thread(target=write_and_close, daemon=True)
        writer.start()
        assert read_to_the_end(reading) == LONG_VIDEO
        writer.join()


def test_a_full_pipe_without_a_reader_is_an_error() -> None:
    with non_blocking_pipe() as (reading, writing):
        fill(writing)
        os.close(reading)
        with pytest.raises(BrokenPipeError):
            write_through(writing, LONG_VIDEO)


@pytest.mark.parametrize(
    ("full", "out", "last"),
    [("stdout", "-", LONG_VIDEO), ("stdout", "video.mp4", b"seed 7\n"), ("stderr", "-", b"seed 7\n")],
    ids=["video", "report", "report on standard error"],
)
def test_the_command_waits_and_nothing_is_lost(tmp_path: Path, full: str, out: str, last: bytes) -> None:
    with serving([Video(LONG_VIDEO)]) as server, non_blocking_pipe() as (reading, writing):
        fill(writing)
        command = [*COMMAND, "generate", "a ball", "--out", out, "--url", server.url]
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, full: writing}
        with child_process(command, cwd=tmp_path, **streams) as process:
            os.close(writing)
            assert server.began.wait(LIMIT_S)
            with pytest.raises(subprocess.TimeoutExpired):  # it ended at once when it did not wait
                process.wait(1)
            assert read_to_the_end(reading).endswith(last)
        assert process.returncode == 0
