"""One server a directory, and what a new server finds there."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from wan_t2v.operate import run_directory as module
from wan_t2v.operate.load import load_of
from wan_t2v.operate.model_control import FILE
from wan_t2v.operate.run_directory import (
    FINISHING,
    IN_TRANSIT,
    RUNNING,
    WAITING,
    RunDirectory,
    RunDirectoryError,
    SlotInfo,
    chosen_path,
    server_identity,
)


def test_a_second_living_server_is_refused_and_told_what_to_do(run_directory: Path) -> None:
    RunDirectory.of_server(run_directory, os.getpid())
    with pytest.raises(RunDirectoryError, match=rf"running server with pid {os.getpid()}: give each server"):
        RunDirectory.of_server(run_directory, os.getppid())


def test_a_new_server_takes_over_from_a_dead_one_and_clears_what_it_left(run_directory: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as last:
        old = RunDirectory.of_server(run_directory, last.pid)
        old.drain()
        old.mark(FINISHING, "1")
        old.write_json("pace.json", {"64x64x17 2": {"at": 1e9}})
        old.write_json(FILE, {"port": 8000})
        (run_directory / ".pace.json.0123").touch()
        key = old.key()
        last.kill()
    switched_on_before_this_process(run_directory / "drain")
    new = RunDirectory.of_server(run_directory, os.getpid())
    assert not new.draining
    assert new.clear(FINISHING, older_than_s=1e9) == 0
    assert new.read_json("pace.json") is None
    assert new.read_json(FILE) == {"port": 8000}  # the launcher writes it before the server starts
    assert not (run_directory / ".pace.json.0123").exists()
    assert new.key() != key
    assert RunDirectory.of_server(run_directory, os.getpid()).key() == new.key()


def switched_on_before_this_process(drain: Path) -> None:
    began = psutil.Process().create_time()
    os.utime(drain, (began - 1, began - 1))


@pytest.mark.parametrize("folder_is_new", [True, False])
def test_a_drain_of_a_server_that_still_loads_is_kept(run_directory: Path, *, folder_is_new: bool) -> None:
    """Else a pod that is deleted while it loads would take new work when its first model has loaded."""
    run_directory.mkdir(exist_ok=True)
    if not folder_is_new:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as last:
            RunDirectory.of_server(run_directory, last.pid)
            last.kill()
    RunDirectory(run_directory).drain()
    assert RunDirectory.of_server(run_directory, os.getpid()).draining
    assert RunDirectory.of_server(run_directory, os.getpid()).draining, "nor does a later model clear it"


def test_a_key_that_was_never_written_is_made_anew(run_directory: Path) -> None:
    run = RunDirectory.of_server(run_directory, os.getpid())
    (run_directory / "key").touch()  # of a process that died, or of a full disk
    assert len(run.key()) == 32
    assert (run_directory / "key").stat().st_mode & 0o077 == 0


def test_a_file_that_cannot_be_written_leaves_nothing(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.of_server(run_directory, os.getpid())
    before = set(run_directory.iterdir())

    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        run.write_json("pace.json", {})
    assert set(run_directory.iterdir()) == before


def test_what_root_wrote_the_servers_user_can_read_but_no_secret_is_open(run_directory: Path) -> None:
    run = RunDirectory.of_server(run_directory, os.getpid())
    run.write_json("processes.json", {})
    run.key()
    assert (run_directory / "processes.json").stat().st_mode & 0o444 == 0o444
    assert (run_directory / "key").stat().st_mode & 0o077 == 0


def test_a_mark_keeps_its_report(run_directory: Path) -> None:
    run = RunDirectory.of_server(run_directory, os.getpid())
    run.mark(IN_TRANSIT, "1", SlotInfo("text_to_video", order=3.0, left_s=4.0))
    run.mark(IN_TRANSIT, "2")
    assert run.marked(IN_TRANSIT)["1"] == SlotInfo("text_to_video", order=3.0, left_s=4.0)
    assert run.marked(IN_TRANSIT).keys() == {"1", "2"}


def test_a_drain_from_before_the_clock_was_set_back_is_cleared(run_directory: Path) -> None:
    later = time.time() + 3600
    RunDirectory(run_directory).drain()
    os.utime(run_directory / "drain", (later, later))
    assert not RunDirectory.of_server(run_directory, os.getpid()).draining


def test_a_process_that_was_started_again_keeps_the_drain(run_directory: Path) -> None:
    RunDirectory.of_server(run_directory, os.getpid()).drain()
    assert RunDirectory.of_server(run_directory, os.getpid()).draining


def test_a_process_with_the_same_id_is_another_one(monkeypatch: pytest.MonkeyPatch, run_directory: Path) -> None:
    """In a container the server has the same id after each start."""
    RunDirectory.of_server(run_directory, os.getpid()).drain()
    later = (time.clock_gettime(time.CLOCK_BOOTTIME) + 1) * os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(module, "server_identity", lambda pid: {"pid": pid, "started": str(int(later))})
    assert not RunDirectory.of_server(run_directory, os.getpid()).draining


def test_a_place_that_cannot_be_written_to_is_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="WAN_T2V_RUN_DIR or the model parameter run_directory"):
        RunDirectory.of_server(tmp_path / "file" / "run", os.getpid())


def test_only_the_servers_user_may_look_in(tmp_path: Path) -> None:
    RunDirectory.of_server(tmp_path / "run", os.getpid()).key()
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "run/key").stat().st_mode & 0o777 == 0o600


def test_the_environment_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAN_T2V_RUN_DIR", "/somewhere")
    assert chosen_path() == Path("/somewhere")
    monkeypatch.delenv("WAN_T2V_RUN_DIR")
    assert chosen_path() == Path("/run/wan-t2v")


def test_the_oldest_mark_goes_first_and_old_ones_can_be_cleared(run_directory: Path) -> None:
    run = RunDirectory.of_server(run_directory, os.getpid())
    assert not run.unmark(FINISHING, "1")
    (run.path / FINISHING / f"{time.monotonic_ns() - 10**11:020d}-a").touch()
    run.mark(FINISHING, "1")
    assert run.clear(FINISHING, older_than_s=1000) == 2
    assert run.clear(FINISHING, older_than_s=50) == 1
    assert not run.unmark(FINISHING, "2") and run.unmark(FINISHING, "1") and not run.unmark(FINISHING, "1")


def test_a_process_that_is_gone_has_no_identity() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert server_identity(ended.pid) is None


JSON_DAMAGES = [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b"[" * 100_000, b'{"pid": "x"}', b'{"pid": 1}']


@pytest.mark.parametrize("content", JSON_DAMAGES)
@pytest.mark.parametrize("name", ["server.json", "processes.json"])
def test_a_damaged_file_is_as_good_as_none(name: str, content: bytes, tmp_path: Path) -> None:
    run = RunDirectory.of_server(tmp_path, os.getpid())
    (tmp_path / name).write_bytes(content)
    if name == "server.json":
        assert run.server() is None
    again = RunDirectory.of_server(tmp_path, os.getpid())
    assert again.server() == server_identity(os.getpid())
    assert load_of(again).is_empty


def test_what_somebody_else_put_there_is_passed_over(tmp_path: Path) -> None:
    run = RunDirectory.of_server(tmp_path, os.getpid())
    for name in (f"{RUNNING}-0", f"{RUNNING}-notes", f"{WAITING}-0", f"{FINISHING}/notes", f"{IN_TRANSIT}/1-x"):
        (tmp_path / name).mkdir()
    (tmp_path / f"{RUNNING}-txt").touch()
    assert load_of(run).is_empty
    slot = run.acquire(RUNNING, SlotInfo("text_to_video"))
    assert [info.endpoint for info in run.occupied(RUNNING)] == ["text_to_video"]
    slot.free()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"endpoint": 7}', b'{"endpoint": "x", "left_s": "long"}', b"\xff" * 600]
)
def test_an_occupied_slot_counts_whatever_its_file_says(content: bytes, tmp_path: Path) -> None:
    run = RunDirectory.of_server(tmp_path, os.getpid())
    slot = run.acquire(RUNNING, SlotInfo("text_to_video"))
    (tmp_path / f"{RUNNING}-0").write_bytes(content)
    load = load_of(run)
    assert (load.in_flight, load.left_s) == (1, None)
    slot.free()


def test_a_slot_that_cannot_be_written_is_free_again(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.of_server(run_directory, os.getpid())
    descriptors = psutil.Process().num_fds()
    with monkeypatch.context() as full, pytest.raises(OSError, match="No space left"):
        full.setattr(os, "pwrite", _no_space)
        run.acquire(WAITING, SlotInfo("a"))
    assert not run.occupied(WAITING) and psutil.Process().num_fds() == descriptors
    run.acquire(WAITING, SlotInfo("a")).free()


def _no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_slot_with_a_damaged_report_goes_before_no_other(run_directory: Path) -> None:
    run = RunDirectory.of_server(run_directory, os.getpid())
    slot = run.acquire(WAITING, SlotInfo("a", order=5.0))
    (run_directory / "waiting-0").write_bytes(b"")
    (damaged,) = run.occupied(WAITING)
    assert damaged.endpoint == "unknown" and damaged.order > 1e300
    slot.free()


def test_a_process_that_has_ended_owns_no_directory_though_nobody_has_read_its_exit_code(run_directory: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as last:
        RunDirectory.of_server(run_directory, last.pid)
        last.kill()
        os.waitid(os.P_PID, last.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        assert server_identity(last.pid) is None
        RunDirectory.of_server(run_directory, os.getpid())
