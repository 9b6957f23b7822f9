from pathlib import Path

import pytest

from export.atomic import write_atomically, write_folder_atomically


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
        with write_folder_atomically(target) as partial:
            (partial / content).touch()
    with pytest.raises(KeyboardInterrupt), write_folder_atomically(target) as partial:
        (partial / "half").touch()
        raise KeyboardInterrupt
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
