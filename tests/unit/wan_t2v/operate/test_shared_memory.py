"""What the regions of a server occupy: memory, not length, and nothing for those that are gone."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from wan_t2v.operate.shared_memory import SharedMemoryUse, free_bytes, remove_regions, use_of

MIB = 2**20


def test_regions_count_by_the_memory_that_they_occupy(tmp_path: Path) -> None:
    (tmp_path / "full").write_bytes(b"x" * MIB)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(MIB)
    (tmp_path / "a_foreign_one").write_bytes(b"x" * MIB)
    use = use_of(["/full", "sparse", "gone", ""], tmp_path)
    assert MIB <= use.region_bytes < 1.1 * MIB
    assert use.size_bytes > use.region_bytes


def test_four_fifths_of_the_file_system_are_too_much() -> None:
    assert not SharedMemoryUse(80, 100).is_full
    assert SharedMemoryUse(81, 100).is_full


def test_room_is_what_an_unprivileged_user_may_still_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = SimpleNamespace(f_frsize=4096, f_blocks=1000, f_bfree=300, f_bavail=200)
    monkeypatch.setattr(os, "statvfs", lambda _: system)
    assert free_bytes(tmp_path) == 200 * 4096


def test_regions_of_one_server_are_removed_and_no_others(tmp_path: Path) -> None:
    for name in ("mine_1", "mine_2", "not_mine_1"):
        (tmp_path / name).touch()
    remove_regions(tmp_path, "mine_")
    assert [path.name for path in tmp_path.iterdir()] == ["not_mine_1"]
