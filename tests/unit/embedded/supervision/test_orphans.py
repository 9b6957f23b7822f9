"""What a reloaded model left behind is ended once it idles, and not before."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from embedded.supervision.orphans import IDLE_S, OrphanedProcesses, Regions
from tests.child_process import child_process
from tests.waiting import wait_until

HOLD = (
    "import pathlib, sys\nfrom wan_t2v.operate.run_directory import RUNNING, RunDirectory, SlotInfo\n"
    "place = RunDirectory(pathlib.Path(sys.argv[1])).acquire(RUNNING, SlotInfo('text_to_video'))\n"
    "print('ready', flush=True)\nsys.stdin.readline()\nplace.free()\nprint('free', flush=True)\nsys.stdin.readline()\n"
)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with child_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None and started.stdout.readline() == "ready\n"
        yield started
        started.kill()


def test_it_works_on_as_long_as_it_holds_a_place_and_ends_when_it_idles(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    clock = [0.0]
    orphans = OrphanedProcesses(tmp_path, now=lambda: clock[0])
    orphans.add([process.pid])
    for _ in range(4):
        orphans.end_idle()
        clock[0] += IDLE_S
    assert process.poll() is None and orphans.pids == {process.pid}
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go on\n")
    process.stdin.flush()
    assert process.stdout.readline() == "free\n"
    for _ in range(2):
        orphans.end_idle()
        clock[0] += IDLE_S
    orphans.end_idle()
    assert process.wait(10) == -9
    orphans.end_idle()
    assert orphans.pids == set()


def test_another_process_that_got_the_id_of_one_is_left_alone(
    process: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, began = [0.0], psutil.Process._get_ident
    orphans = OrphanedProcesses(tmp_path / "where it holds no place", now=lambda: clock[0])
    with monkeypatch.context() as earlier:
        earlier.setattr(psutil.Process, "_get_ident", lambda one: (one.pid, began(one)[1] - 100.0))
        orphans.add([process.pid])
    monkeypatch.setattr(psutil.Process, "open_files", refuse)
    for _ in range(4):
        orphans.end_idle()
        clock[0] += IDLE_S
    assert process.poll() is None and orphans.pids == set()


def test_one_that_ended_but_was_not_waited_for_yet_is_forgotten(
    process: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users but root may not read what a zombie has open."""
    monkeypatch.setattr(psutil.Process, "open_files", refuse)
    orphans = OrphanedProcesses(tmp_path)
    orphans.add([process.pid])
    process.kill()
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    orphans.end_idle()
    assert orphans.pids == set()


def refuse(process: psutil.Process) -> None:
    raise psutil.AccessDenied(process.pid)


def test_one_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    orphans = OrphanedProcesses(tmp_path)
    orphans.add([ended.pid])
    orphans.end_idle()
    assert orphans.pids == set()


def test_the_shared_memory_of_a_killed_process_loses_its_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).touch()
    regions = Regions(tmp_path)
    regions.forget_dead([(1, "one"), (2, "two")])
    regions.forget_dead([(2, "two")])
    assert [path.name for path in tmp_path.iterdir()] == ["two"]
