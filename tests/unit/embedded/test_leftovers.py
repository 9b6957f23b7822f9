import os
from pathlib import Path

import pytest

from embedded import leftovers


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(leftovers.tempfile, "gettempdir", lambda: str(tmp_path))
    dead, living = 4_194_305, os.getpid()  # one above Linux's largest process id
    for pid in (dead, living):
        (tmp_path / f"wan_t2v_{pid}_region").touch()
        (tmp_path / f"wan-t2v-{pid}-abc").mkdir()
    (tmp_path / "wan-t2v-notes").mkdir()
    leftovers.remove_leftovers()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"wan_t2v_{living}_region",
        f"wan-t2v-{living}-abc",
        "wan-t2v-notes",
    }
