"""A server's folder and shared memory are removed when no process holds them, and nobody else's are."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded import cleanup
from embedded.cleanup import MARK, Belongings, remove_leftovers
from embedded.errors import ServerError
from tests.child_process import child_process

OTHER = (
    "import pathlib, sys\nfrom embedded import cleanup\n"
    "cleanup.SHARED_MEMORY = pathlib.Path(sys.argv[2])\n"
    "own = cleanup.Belongings.acquire(pathlib.Path(sys.argv[1]))\n"
    "(cleanup.SHARED_MEMORY / f'{own.shm_prefix}region').touch()\n"
    "print(own.folder, own.shm_prefix, flush=True)\nsys.stdin.readline()\n"
)


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    made = tmp_path / "tmp"
    made.mkdir()
    return made


@pytest.fixture(autouse=True)
def shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "shm"
    made.mkdir()
    monkeypatch.setattr(cleanup, "SHARED_MEMORY", made)
    return made


@pytest.fixture
def other(temporary: Path, shared_memory: Path, root: Path) -> Iterator[subprocess.Popen[str]]:
    """Another supervisor, whose first line names its folder and its prefix."""
    command = [sys.executable, "-c", OTHER, str(temporary), str(shared_memory)]
    with child_process(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        yield started
        started.kill()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_dead_server_left_is_removed_and_what_a_living_one_has_is_not(
    other: subprocess.Popen[str], temporary: Path, shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert other.stdout is not None
    folder, prefix = other.stdout.readline().split()
    # from another container its processes cannot be seen
    monkeypatch.setattr(Path, "exists", lambda path, seen=Path.exists: False if path.parts[1] == "proc" else seen(path))
    remove_leftovers(temporary)
    assert Path(folder).is_dir() and (shared_memory / f"{prefix}region").exists()
    other.kill()
    other.wait()
    remove_leftovers(temporary)
    assert names(temporary) == names(shared_memory) == set()


def test_it_counts_as_living_as_long_as_one_of_its_processes_does(temporary: Path, shared_memory: Path) -> None:
    """The supervisor was killed, and tritonserver has not ended yet."""
    own = Belongings.acquire(temporary)
    with child_process([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=own.locks) as triton:
        for lock in own.locks:
            os.close(lock)
        remove_leftovers(temporary)
        assert own.folder.is_dir() and len(names(shared_memory)) == 1
        triton.kill()
        triton.wait()
        remove_leftovers(temporary)
    assert names(temporary) == names(shared_memory) == set()


def test_what_only_looks_like_ours_stays(temporary: Path, shared_memory: Path, tmp_path: Path) -> None:
    for name in ("wan-t2v-notes", "wan-t2v-4194305-abc", "wan-t2v-"):
        (temporary / name).mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / MARK).touch()
    (temporary / "wan-t2v-link").symlink_to(elsewhere)
    (temporary / "wan-t2v-file").touch()
    for name in ("wan_t2v_4194305_region", "wan_t2v_notes"):
        (shared_memory / name).touch()
    before = names(temporary), names(shared_memory)
    remove_leftovers(temporary)
    assert (names(temporary), names(shared_memory)) == before
    assert names(elsewhere) == {MARK}


def test_another_users_stay(temporary: Path, shared_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Belongings.acquire(temporary)
    for lock in own.locks:
        os.close(lock)
    monkeypatch.setattr(cleanup.os, "geteuid", lambda: os.getuid() + 1)
    remove_leftovers(temporary)
    assert own.folder.is_dir() and len(names(shared_memory)) == 1


def test_two_servers_with_one_process_id_have_nothing_in_common(temporary: Path, shared_memory: Path) -> None:
    first, second = Belongings.acquire(temporary), Belongings.acquire(temporary)
    for own in (first, second):
        (shared_memory / f"{own.shm_prefix}region").touch()
    first.remove()
    remove_leftovers(temporary)
    assert names(temporary) == {second.folder.name}
    assert f"{second.shm_prefix}region" in names(shared_memory) and len(names(shared_memory)) == 2
    second.remove()
    assert names(temporary) == names(shared_memory) == set()


def test_cleaners_of_temporary_files_are_told_that_the_folder_is_in_use(temporary: Path) -> None:
    """systemd-tmpfiles leaves a folder alone on which somebody holds a lock."""
    own = Belongings.acquire(temporary)
    descriptor = os.open(own.folder, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
    own.remove()


@pytest.mark.parametrize("gone", ["folder", "mark", "run", "replaced"])
def test_a_folder_that_somebody_removed_is_noticed_and_made_again(gone: str, temporary: Path) -> None:
    own = Belongings.acquire(temporary)
    own.run_directory.mkdir()
    assert own.are_there
    if gone in ("folder", "replaced"):
        cleanup.shutil.rmtree(own.folder)
    if gone == "replaced":
        own.run_directory.mkdir(parents=True)
        (own.folder / MARK).touch()
    if gone == "mark":
        (own.folder / MARK).unlink()
    if gone == "run":
        own.run_directory.rmdir()
    assert not own.are_there
    own.remake_folder()
    own.run_directory.mkdir()
    assert own.are_there
    own.remove()


def test_a_folder_that_cannot_be_made_again_keeps_no_file_open(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk that is tried again for as long as that lasts."""
    own = Belongings.acquire(temporary)

    def no_space(path: Path, **_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "touch", no_space)
        before = open_files()
        for _ in range(3):
            with pytest.raises(ServerError, match="No space left on device"):
                own.remake_folder()
        assert open_files() == before and not own.are_there
    own.remove()


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="cannot be made .* set TMPDIR to another folder"):
        Belongings.acquire(tmp_path / "none")


def test_a_folder_of_another_user_that_may_not_be_read_is_passed_over(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary / "wan-t2v-of-somebody-else").mkdir()

    def refuse(path: Path, **_: object) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    remove_leftovers(temporary)
    assert names(temporary) == {"wan-t2v-of-somebody-else"}
