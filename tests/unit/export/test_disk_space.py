from pathlib import Path
from types import SimpleNamespace

import pytest

from export import disk_space
from export.disk_space import DiskNeed, DiskSpaceError, check_disk_space


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: SimpleNamespace(free=10e9))


def test_needs_on_one_file_system_add_up(tmp_path: Path, free: None) -> None:
    check_disk_space([DiskNeed(tmp_path, 6e9, "graphs"), DiskNeed(tmp_path / "not/there", 4e9, "plans")])
    with pytest.raises(DiskSpaceError) as refused:
        check_disk_space([DiskNeed(tmp_path, 6e9, "graphs"), DiskNeed(tmp_path / "not/there", 5e9, "plans")])
    told = str(refused.value)
    assert "11.0 GB of disk are needed and 10.0 GB are free" in told
    assert f"graphs in {tmp_path}: 6.0 GB; plans in {tmp_path}/not/there: 5.0 GB" in told


def test_each_file_system_has_its_own_room(tmp_path: Path, free: None) -> None:
    other = Path("/proc")  # another one on every machine
    check_disk_space([DiskNeed(tmp_path, 6e9, "graphs"), DiskNeed(other, 5e9, "plans")])
