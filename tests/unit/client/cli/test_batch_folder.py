"""A batch's folder with named pipes in it: no pipe is opened before there is something to write."""

import errno
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from wan_t2v_client import Generation
from wan_t2v_client.cli.batch_file import BatchRequest
from wan_t2v_client.cli.batch_folder import BatchFolder
from wan_t2v_client.cli.output_file import check_output

REQUEST = BatchRequest(line=1, name="ball", fields={"prompt": "a ball"})
VIDEO = b"an MP4"
MADE = Generation(VIDEO, None, None, metadata={})


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "ball.mp4"
    os.mkfifo(path)
    return path


@pytest.fixture
def reader(pipe: Path) -> Iterator[int]:
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    yield descriptor
    os.close(descriptor)


def has_event(descriptor: int) -> bool:
    """Whether the pipe has data or an end of file: a reader that waits would be woken."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def test_the_check_gives_a_pipes_reader_no_end_of_file(pipe: Path, reader: int) -> None:
    folder = BatchFolder(pipe.parent)
    assert not folder.has(REQUEST)
    folder.check(REQUEST)
    assert not has_event(reader)
    folder.keep(REQUEST, MADE, seconds=1.0)
    assert os.read(reader, 100) == VIDEO and pipe.is_fifo()


def test_a_pipe_in_the_descriptions_place_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Path) -> bytes:
        raise AssertionError(f"{path} was opened, which waits for a writer")

    os.mkfifo(tmp_path / "ball.json")
    monkeypatch.setattr(Path, "read_bytes", opened)
    folder = BatchFolder(tmp_path)
    assert not folder.has(REQUEST)


def test_a_pipe_that_may_not_be_written_is_known_before(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *arguments, **options: False)  # root may write to any
    with pytest.raises(PermissionError) as refusal:
        check_output(pipe)
    assert (refusal.value.errno, refusal.value.filename) == (errno.EACCES, str(pipe))


def test_an_open_pipe_that_takes_nothing_is_known_before(tmp_path: Path) -> None:
    """A link to one of the command's own descriptors: there the mode of the pipe says nothing."""
    reading, writing = os.pipe()
    try:
        for number, name in ((writing, "ball.mp4"), (reading, "cube.mp4")):
            (tmp_path / name).symlink_to(f"/dev/fd/{number}")
        check_output(tmp_path / "ball.mp4")
        with pytest.raises(OSError, match="Bad file descriptor"):
            check_output(tmp_path / "cube.mp4")
        assert not has_event(reading)
    finally:
        os.close(reading)
        os.close(writing)
