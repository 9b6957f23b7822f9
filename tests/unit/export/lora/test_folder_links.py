"""Merges into a large checkpoint whose files are links, as in the hub's cache."""

import shutil
from pathlib import Path

import pytest

from export.checkpoint.folder import Checkpoint, CheckpointKind
from export.lora.experts import LoraChoice
from export.lora.folder import merge_loras
from tests.unit.export.lora.lora_files import MINI, of_lightx2v, saved
from wan_t2v.manifests import MERGED_LORAS, MergedLoras, read_manifest


def test_the_merged_checkpoint_has_files_and_the_hash_of_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.checkpoint.folder.MAX_WEIGHTS_BYTES", 0)
    linked = Path(shutil.copytree(MINI, tmp_path / "linked"))
    for path in [*linked.rglob("*.safetensors")]:
        path.unlink()
        path.symlink_to((MINI / path.relative_to(linked)).resolve())
    source = Checkpoint.open(linked)
    assert source.kind is CheckpointKind.LARGE
    lora = saved(tmp_path / "lora.safetensors", of_lightx2v("links"))
    into = merge_loras(source, LoraChoice(str(lora), "none"), tmp_path / "merged")
    assert not any(path.is_symlink() for path in into.rglob("*"))
    record = read_manifest(MergedLoras, into / MERGED_LORAS)
    assert record.base["transformer"] == Checkpoint.open(MINI).hash_of("transformer")
