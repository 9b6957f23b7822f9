import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from export.atomic import (
    OccupiedFolderError,
    SharedFolderError,
    folder_beside,
    holds_only,
    remove_abandoned,
    remove_leftovers,
    write_atomically,
    write_folder_atomically,
)

ours = holds_only("old", "new")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "graph.onnx"
    target.write_text("old")
    with pytest.raises(RuntimeError), write_atomically(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    with write_atomically(target) as partial:
        partial.write_text("new")
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["graph.onnx"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    for content in ("old", "new"):
        with write_folder_atomically(target, made_here=ours) as partial:
            (partial / content).touch()
    with pytest.raises(KeyboardInterrupt), write_folder_atomically(target, made_here=ours) as partial:
        (partial / "half").touch()
        raise KeyboardInterrupt
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_folder_with_anything_else_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "checkpoints"
    (target / "Wan2.2").mkdir(parents=True)
    (target / "new").touch()
    refused = pytest.raises(OccupiedFolderError, match=r"checkpoints would be replaced .*\(Wan2.2, new\); accepted:")
    with refused, write_folder_atomically(target, made_here=ours):
        pytest.fail("nothing may be written for it")
    assert sorted(path.name for path in target.iterdir()) == ["Wan2.2", "new"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_and_the_folder_that_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "big disk").mkdir()
    (tmp_path / "checkpoint").symlink_to("big disk/checkpoint")
    (tmp_path / "big disk/checkpoint").mkdir()
    for content in ("old", "new"):
        with write_folder_atomically(tmp_path / "checkpoint", made_here=ours) as partial:
            assert partial.parent == tmp_path / "big disk", "the disk that has the room"
            (partial / content).touch()
    assert (tmp_path / "checkpoint").is_symlink()
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big disk", "checkpoint"]
    assert [path.name for path in (tmp_path / "big disk").iterdir()] == ["checkpoint"]


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").symlink_to("unmounted/checkpoint")
    refused = pytest.raises(OccupiedFolderError, match=r"is a link to unmounted/checkpoint, which is not there")
    with refused, write_folder_atomically(tmp_path / "checkpoint", made_here=ours):
        pytest.fail("nothing may be written for it")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_mounted_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be renamed, and what is written beside it is on another disk."""
    monkeypatch.setattr("os.path.ismount", lambda path: path == tmp_path / "disk")
    (tmp_path / "disk").mkdir()
    refused = pytest.raises(OccupiedFolderError, match=r"disk is where a disk is mounted.* Name a folder in it")
    with refused, write_folder_atomically(tmp_path / "disk", made_here=ours):
        pytest.fail("nothing may be written for it")
    with write_folder_atomically(tmp_path / "disk/checkpoint", made_here=ours):
        pass


def test_a_file_is_no_folder_to_replace(tmp_path: Path) -> None:
    target = tmp_path / "notes.txt"
    target.write_text("mine")
    with (
        pytest.raises(OccupiedFolderError, match="notes.txt is a file"),
        write_folder_atomically(target, made_here=ours),
    ):
        pytest.fail("nothing may be written for it")
    assert target.read_text() == "mine"


def test_an_empty_folder_and_one_that_a_killed_process_left_are_replaced(tmp_path: Path) -> None:
    target = tmp_path / "graph"
    target.mkdir()
    for left in ("new", ".new.123.partial"):
        with write_folder_atomically(target, made_here=ours) as partial:
            (partial / left).touch()
    with write_folder_atomically(target, made_here=ours) as partial:
        (partial / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("plan", [".plan.v2.k3_x9abc.partial", ".other.42.partial", ".plan.notes", "plan", "plan.partial"]),
        (None, [".plan.notes", "plan", "plan.partial"]),
    ],
)
def test_what_killed_processes_left_is_removed(name: str | None, left: list[str], tmp_path: Path) -> None:
    for folder in (".plan.k3_x9abc.partial", ".plan.k3_x9abc.old", ".plan.v2.k3_x9abc.partial", "plan"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.plan").touch()
    for file in (".plan.42.partial", ".other.42.partial", ".plan.notes", "plan.partial"):
        (tmp_path / file).touch()
    remove_leftovers(tmp_path, name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(left)
    remove_leftovers(tmp_path / "nowhere")


def test_a_folder_that_was_moved_away_for_nothing_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C or a kill between the two renames."""
    target, replace = tmp_path / "wan.lora", Path.replace
    target.mkdir()
    (target / "old").touch()

    def stopped(path: Path, to: Path) -> Path:
        if to == target:
            raise KeyboardInterrupt
        return replace(path, to)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stopped)
        with pytest.raises(KeyboardInterrupt), write_folder_atomically(target, made_here=ours) as partial:
            (partial / "new").touch()
    assert not target.exists()
    remove_leftovers(tmp_path, "wan.lora")
    assert [path.name for path in tmp_path.iterdir()] == ["wan.lora"]
    assert [path.name for path in target.iterdir()] == ["old"]


def test_a_replaced_folder_that_was_removed_by_half_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill while the old folder is removed, which takes long for a large one; then somebody removes the new one."""
    target = tmp_path / "wan.lora"
    target.mkdir()
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
        with write_folder_atomically(target, made_here=ours) as partial:
            (partial / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"] and len(list(tmp_path.iterdir())) == 2
    shutil.rmtree(target)
    remove_leftovers(tmp_path, "wan.lora")
    assert not list(tmp_path.iterdir())


def test_a_writer_whose_folder_another_one_removed_is_told_why(tmp_path: Path) -> None:
    told = pytest.raises(SharedFolderError, match="ran at the same time.* Run one at a time.")
    with told, write_folder_atomically(tmp_path / "graph", made_here=ours):
        remove_leftovers(tmp_path, "graph")
    with told, write_folder_atomically(tmp_path / "graph", made_here=ours) as partial:
        remove_leftovers(tmp_path, "graph")
        (partial / "new").touch()
    with pytest.raises(FileNotFoundError), write_folder_atomically(tmp_path / "graph", made_here=ours) as partial:
        (partial / "missing").read_text()


def test_a_folder_beside_another_has_the_name_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real/inside").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    assert folder_beside(tmp_path / "link", "-lora") == tmp_path / "link-lora"
    monkeypatch.chdir(tmp_path / "real/inside")
    assert folder_beside(Path(), "-lora") == tmp_path / "real/inside-lora"
    assert folder_beside(Path(".."), "-lora") == tmp_path / "real-lora"
    assert folder_beside(Path("mini"), "-lora") == Path("mini-lora")
    with pytest.raises(OccupiedFolderError, match="/ is a root, and nothing can be beside it"):
        folder_beside(Path("/"), "-export")


@pytest.mark.parametrize(("hours", "left"), [(0, ["dead", "running", "own"]), (2, ["running"])])
def test_a_partial_file_that_may_have_a_writer_is_left_alone(hours: int, left: list[str], tmp_path: Path) -> None:
    """Processes of other containers cannot be seen, and may have this process's own number."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    numbers = {"dead": ended.pid, "running": os.getppid(), "own": os.getpid()}
    for number in numbers.values():
        file = tmp_path / f".model.onnx.data.{number}.partial"
        file.touch()
        os.utime(file, (time.time() - 3600 * hours,) * 2)
    (tmp_path / f".other.{ended.pid}.partial").touch()
    os.utime(tmp_path / f".other.{ended.pid}.partial", (0, 0))
    remove_abandoned(tmp_path / "model.onnx.data")
    (tmp_path / f".other.{ended.pid}.partial").unlink()
    assert {path.name for path in tmp_path.iterdir()} == {f".model.onnx.data.{numbers[name]}.partial" for name in left}
