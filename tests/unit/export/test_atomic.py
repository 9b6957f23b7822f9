from pathlib import Path

import pytest

from export.atomic import (
    OccupiedFolderError,
    holds_only,
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
