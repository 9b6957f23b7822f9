"""Where the command writes: nothing but regular files is replaced, and what goes wrong is said of what it is about."""

import errno
import os
import stat
import threading
from pathlib import Path

import pytest
from wan_t2v_client.cli.main import main
from wan_t2v_client.cli.output_file import OutputFile, make_folder

from tests.fakes.client_process import SIZE, assert_one_line, run_command
from tests.fakes.scripted_server import MADE, VIDEO, ScriptedServer, serving


@pytest.fixture
def usual_umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def write(path: Path, data: bytes = VIDEO) -> None:
    with OutputFile(path) as file:
        file.write(data)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_mode_that_the_umask_leaves(usual_umask: None, tmp_path: Path) -> None:
    write(tmp_path / "deep" / "video.mp4")
    assert mode(tmp_path / "deep" / "video.mp4") == 0o640


@pytest.mark.parametrize("kept", [0o600, 0o666, 0o755, 0o444])
def test_a_file_that_is_replaced_keeps_its_mode(usual_umask: None, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"something longer than a video")
    path.chmod(kept)
    before = path.stat().st_ino
    write(path)
    assert path.read_bytes() == VIDEO and mode(path) == kept
    assert path.stat().st_ino != before  # in one step


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    target, link, second = tmp_path / "there" / "target.mp4", tmp_path / "link.mp4", tmp_path / "second.mp4"
    target.parent.mkdir()
    target.write_bytes(b"before")
    target.chmod(0o600)
    link.symlink_to("there/target.mp4")
    second.symlink_to(link)
    write(second)
    assert second.readlink() == link and link.readlink() == Path("there/target.mp4")
    assert target.read_bytes() == VIDEO and mode(target) == 0o600


def test_a_link_to_nothing_gets_a_target(tmp_path: Path) -> None:
    link = tmp_path / "link.mp4"
    link.symlink_to("not there yet/target.mp4")
    write(link)
    assert link.is_symlink() and (tmp_path / "not there yet" / "target.mp4").read_bytes() == VIDEO


@pytest.mark.skipif(os.geteuid() != 0, reason="making a device takes root")
def test_a_device_stays_a_device(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_bytes(b"")
    except PermissionError:
        pytest.skip("no devices here")
    before = device.stat()
    write(device)
    assert stat.S_ISCHR(device.stat().st_mode) and device.stat().st_ino == before.st_ino


def test_a_device_stays_a_device_for_any_user() -> None:
    write(Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


def test_a_pipe_stays_a_pipe_and_its_reader_gets_the_video(tmp_path: Path) -> None:
    fifo, read = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()), daemon=True)
    reader.start()
    write(fifo, VIDEO * 100_000)  # more than a pipe holds
    reader.join()
    assert read == [VIDEO * 100_000] and fifo.is_fifo()


@pytest.mark.parametrize("name", ["v" * 251 + ".mp4", "é" * 125 + ".mp4", "v" * 255])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("v" * 256, errno.ENAMETOOLONG),
        ("folder", errno.EISDIR),
        ("file/video.mp4", errno.ENOTDIR),
        ("loop", errno.ELOOP),
    ],
)
def test_what_cannot_be_written_is_known_before_and_named(tmp_path: Path, name: str, number: int) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError) as refusal:
        OutputFile(tmp_path / name)
    assert (refusal.value.errno, refusal.value.filename) == (number, str(tmp_path / name))


def test_an_error_while_writing_names_the_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "video.mp4").write_bytes(b"before")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device: '.*video.mp4'"):
        write(tmp_path / "video.mp4")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_a_stop_while_writing_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "video.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_replaced_is_written_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's mount of one file says EBUSY."""
    path = tmp_path / "video.mp4"
    path.write_bytes(b"something longer than a video")

    def busy(self: Path, target: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(Path, "replace", busy)
    write(path)
    assert path.read_bytes() == VIDEO and [found.name for found in tmp_path.iterdir()] == ["video.mp4"]


def test_a_file_in_a_folder_that_takes_no_other_is_written_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"something longer than a video")

    def refused(folder: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("wan_t2v_client.cli.output_file._check_folder", refused)
    write(path)
    assert path.read_bytes() == VIDEO
    with pytest.raises(PermissionError, match="another.mp4"):
        OutputFile(tmp_path / "another.mp4")
    with pytest.raises(PermissionError, match="previews"):
        make_folder(tmp_path / "previews")


@pytest.fixture(scope="module")
def server():
    with serving(MADE) as scripted:
        yield scripted


def generate(server: ScriptedServer, out: str, *options: str, **streams) -> tuple[int, bytes, str]:
    return run_command("generate", "a ball", "--out", out, "--url", server.url, *SIZE, *options, **streams)


def test_any_open_file_takes_the_video(server: ScriptedServer) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        code, output, _ = generate(server, f"/dev/fd/{writing}", pass_fds=[writing])
        os.close(writing)
        assert (code, pipe.read()) == (0, VIDEO)
    assert b"5 frames of 32x48" in output


@pytest.mark.parametrize("out", ["/dev/fd/77", "/dev/fd/0"])
def test_a_descriptor_that_takes_nothing_is_refused_before_any_work(server: ScriptedServer, out: str) -> None:
    """One that is not open, and one that is open for reading alone."""
    asked = len(server.requests)
    with open("/dev/null", "rb") as only_for_reading:  # noqa: PTH123
        code, _, errors = generate(server, out, stdin=only_for_reading)
    assert code == 6
    assert_one_line(errors, f"{out}: Bad file descriptor")
    assert len(server.requests) == asked


def test_a_full_device_is_an_error_of_the_video(server: ScriptedServer) -> None:
    code, output, errors = generate(server, "/dev/full")
    assert (code, output) == (6, b"")
    assert_one_line(errors, "/dev/full: No space left on device")


@pytest.mark.parametrize("command", ["generate", "previews", "batch"])
def test_an_unwritable_folder_is_known_before_anything_is_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    (tmp_path / "prompts.txt").write_text("a ball\n")
    arguments = {
        "generate": ["generate", "x", "--out", "/proc/x.mp4"],
        "previews": ["generate", "x", "--out", str(tmp_path / "x.mp4"), "--previews", "/proc"],
        "batch": ["batch", str(tmp_path / "prompts.txt"), "--out", "/proc/videos"],
    }[command]
    with serving(MADE) as server:
        assert main([*arguments, "--url", server.url]) == 6
        assert server.requests == []
    named = {"generate": "/proc/x.mp4", "previews": "/proc", "batch": "/proc/videos"}[command]
    assert_one_line(capsys.readouterr().err, f"wan-t2v: {named}: ")
