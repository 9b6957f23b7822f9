"""A file that is there and cannot be replaced: known before the video is made, or the video is kept beside it."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from wan_t2v_client.cli.command_line import run
from wan_t2v_client.cli.output_file import OutputFile

from tests.fakes.client_process import assert_one_line
from tests.fakes.scripted_server import MADE, VIDEO, serving

BEFORE = b"something longer than a video"
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")


def failing(number: int) -> Callable[..., None]:
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def write(path: Path) -> None:
    with OutputFile(path) as file:
        file.write(VIDEO)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    path.write_bytes(BEFORE)
    return path


@contextmanager
def another_user() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def sticky() -> Iterator[Path]:
    """A folder as /tmp is; not one of pytest's, which other users may not enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o1777)
        with another_user():
            is_reachable = os.access(name, os.W_OK, effective_ids=True)
        if not is_reachable:
            pytest.skip("other users may not enter TMPDIR")
        yield Path(name)


@as_root
def test_another_users_file_in_a_sticky_folder_is_refused_before_anything_is_asked_for(
    sticky: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sticky / "video.mp4"
    path.write_bytes(BEFORE)
    path.chmod(0o644)
    with serving(MADE) as server:
        with another_user():
            assert run(["generate", "a ball", "--out", str(path), "--url", server.url]) == 6
        assert server.requests == []
    assert_one_line(capsys.readouterr().err, f"wan-t2v: {path}: Permission denied")


@as_root
def test_another_users_file_that_anybody_may_write_is_written_into(sticky: Path) -> None:
    path = sticky / "video.mp4"
    path.write_bytes(BEFORE)
    path.chmod(0o666)
    inode = path.stat().st_ino
    with another_user():
        write(path)
    assert (path.read_bytes(), path.stat().st_ino) == (VIDEO, inode)


@as_root
def test_ones_own_file_in_a_sticky_folder_is_replaced(sticky: Path) -> None:
    path = sticky / "video.mp4"
    with another_user():
        path.write_bytes(BEFORE)
        inode = path.stat().st_ino
        write(path)
    assert path.read_bytes() == VIDEO and path.stat().st_ino != inode


def test_a_file_whose_name_may_not_be_taken_away_is_written_into(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any user, without a file of another's."""
    inode = path.stat().st_ino
    monkeypatch.setattr(os, "rmdir", failing(errno.EPERM))
    write(path)
    assert (path.read_bytes(), path.stat().st_ino) == (VIDEO, inode)


def test_a_video_that_does_not_get_its_name_stays_under_the_name_that_is_told(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "replace", failing(errno.EPERM))
    with serving(MADE) as server:
        assert run(["generate", "a ball", "--out", str(path), "--url", server.url]) == 6
    (kept,) = set(path.parent.iterdir()) - {path}
    assert (path.read_bytes(), kept.read_bytes()) == (BEFORE, VIDEO)
    assert_one_line(
        capsys.readouterr().err,
        f"wan-t2v: {path}: Operation not permitted; it was kept as {kept}, move it from there",
    )


def test_a_video_stays_if_a_mounted_file_does_not_take_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(self: Path, target: Path) -> None:
        target.unlink()
        target.mkdir()  # takes nothing, whoever runs this
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(Path, "replace", busy)
    with pytest.raises(IsADirectoryError, match="it was kept as"):
        write(path)
    (kept,) = set(path.parent.iterdir()) - {path}
    assert kept.read_bytes() == VIDEO


def test_nothing_is_said_to_be_kept_that_somebody_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def removed(self: Path, target: Path) -> None:
        self.unlink()
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(Path, "replace", removed)
    with pytest.raises(FileNotFoundError) as error:
        write(path)
    assert (error.value.strerror, error.value.filename) == ("No such file or directory", str(path))


def test_an_owner_that_cannot_be_kept_costs_no_video(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without root says EINVAL of an owner that it does not know."""
    path.chmod(0o640)
    monkeypatch.setattr(os, "chown", failing(errno.EINVAL))
    write(path)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (VIDEO, 0o640)


def test_the_mode_is_kept_while_the_file_is_still_ones_own(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may give files away need not have the right to change those of others."""
    path.chmod(0o640)
    monkeypatch.setattr(os, "chown", lambda *_: monkeypatch.setattr(os, "chmod", failing(errno.EPERM)))
    write(path)
    monkeypatch.undo()
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (VIDEO, 0o640)
