"""The untrained wan-mini: which folders it may replace."""

import shutil
from pathlib import Path

import pytest

from export.__main__ import main
from export.checkpoint.mini import is_wan_mini
from wan_t2v.manifests import MERGED_LORAS


@pytest.mark.parametrize("out", ["checkpoints", "checkpoints/Wan2.2-T2V-A14B"])
def test_a_folder_with_other_checkpoints_stays(
    out: str, intact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(intact, tmp_path / "checkpoints/Wan2.2-T2V-A14B")
    before = sorted(tmp_path.rglob("*"))
    assert main(["mini", "--out", str(tmp_path / out)]) == 1
    assert f"error: {tmp_path / out} would be replaced" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_wan_mini_is_known_by_its_defaults(checkpoint: Path, intact: Path, tmp_path: Path) -> None:
    assert is_wan_mini(checkpoint) and not is_wan_mini(intact) and not is_wan_mini(tmp_path)
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy", ignore=shutil.ignore_patterns("*.safetensors")))
    (copy / MERGED_LORAS).touch()
    assert not is_wan_mini(copy), "a merge of it is its own"
    (copy / MERGED_LORAS).unlink()
    (copy / "serving_defaults.json").write_text("[]")
    assert not is_wan_mini(copy)
