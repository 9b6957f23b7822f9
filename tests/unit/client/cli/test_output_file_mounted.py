"""A file that is mounted by itself, as in containers: nothing can replace it, and that is known before the video is."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from wan_t2v_client.cli.output_file import OutputFile

from tests.fakes.client_process import COMMAND, SIZE, assert_one_line
from tests.fakes.scripted_server import MADE, VIDEO, serving

BEFORE = b"something longer than a video"
MOUNT_ID = "wan_t2v_client.cli.output_file._mount_id"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    path.write_bytes(BEFORE)
    return path


def write(path: Path) -> None:
    with OutputFile(path) as file:
        file.write(VIDEO)


def with_mount(path: Path, access: str) -> list[str]:
    """The prefix of a command that has the file mounted by itself. Skips the test where mounts are refused."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    mount = 'mount --bind -o "$1" "$2" "$2" && shift 2 && exec "$@"'
    prefix = ["unshare", *user, "--mount", "sh", "-c", mount, "sh", access, str(path)]
    done = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    return prefix


def generate(prefix: list[str], path: Path, url: str) -> tuple[int, str]:
    command = [*prefix, *COMMAND, "generate", "a ball", "--out", str(path), "--url", url, *SIZE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stderr


def test_one_that_may_not_be_written_is_refused_before_anything_is_asked_for(path: Path) -> None:
    with serving(MADE) as server:
        code, errors = generate(with_mount(path, "ro"), path, server.url)
        assert (code, server.requests) == (6, []), errors
    assert_one_line(errors, f"wan-t2v: {path}: Read-only file system")
    assert [found.name for found in path.parent.iterdir()] == ["video.mp4"]


def test_one_that_may_be_written_is_written_into(path: Path) -> None:
    inode = path.stat().st_ino
    with serving(MADE) as server:
        code, errors = generate(with_mount(path, "rw"), path, server.url)
    assert code == 0, errors
    assert (path.read_bytes(), path.stat().st_ino) == (VIDEO, inode)
    assert [found.name for found in path.parent.iterdir()] == ["video.mp4"]


@pytest.fixture
def mounted(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For any user, without a mount."""
    monkeypatch.setattr(MOUNT_ID, lambda asked: 2 if asked == path else 1)
    return path


def test_one_is_never_replaced(mounted: Path) -> None:
    inode = mounted.stat().st_ino
    write(mounted)
    assert (mounted.read_bytes(), mounted.stat().st_ino) == (VIDEO, inode)


@pytest.mark.parametrize("missing", ["O_PATH", "/proc"])
def test_a_file_is_replaced_where_the_system_tells_no_mounts(
    path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    if missing == "O_PATH":
        monkeypatch.delattr(os, "O_PATH", raising=False)
    else:
        monkeypatch.setattr(Path, "read_text", failing(errno.EACCES))
    inode = path.stat().st_ino
    write(path)
    assert path.read_bytes() == VIDEO and path.stat().st_ino != inode


def failing(number: int) -> Callable[..., None]:
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def stop_after(count: int) -> Callable[[int, memoryview], int]:
    """A write after whose first `count` bytes Ctrl-C comes."""
    write_all = os.write

    def write(descriptor: int, data: memoryview) -> int:
        write_all(descriptor, data[:count])
        raise KeyboardInterrupt

    return write


@pytest.mark.parametrize(("count", "left"), [(0, BEFORE), (3, VIDEO[:3]), (len(VIDEO), VIDEO)])
def test_a_stop_leaves_no_mixture_of_two_videos(
    mounted: Path, monkeypatch: pytest.MonkeyPatch, count: int, left: bytes
) -> None:
    monkeypatch.setattr(os, "write", stop_after(count))
    with pytest.raises(KeyboardInterrupt):
        write(mounted)
    monkeypatch.undo()
    assert mounted.read_bytes() == left


def test_a_stop_leaves_the_video_beside_one_that_became_a_mount_after_the_check(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Path, "replace", failing(errno.EBUSY))
    monkeypatch.setattr(os, "write", stop_after(3))
    with pytest.raises(KeyboardInterrupt):
        write(path)
    monkeypatch.undo()
    (kept,) = set(path.parent.iterdir()) - {path}
    assert (path.read_bytes(), kept.read_bytes()) == (VIDEO[:3], VIDEO)
    assert_one_line(capsys.readouterr().err, f"{path} may be cut short; it was kept as {kept}, move it from there")


def test_an_error_leaves_the_video_beside_one_that_became_a_mount_after_the_check(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "replace", failing(errno.EBUSY))
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
    with pytest.raises(OSError, match=r"No space left on device; it was kept as .*\.partial, move it from there"):
        write(path)
    monkeypatch.undo()
    (kept,) = set(path.parent.iterdir()) - {path}
    assert (path.read_bytes(), kept.read_bytes()) == (BEFORE, VIDEO)
