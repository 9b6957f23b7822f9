"""Merges of a large checkpoint whose files are links, as in the hub's cache, and merges into a folder that is a link."""

import shutil
from pathlib import Path

import pytest

from export.checkpoint.folder import Checkpoint, CheckpointKind
from export.lora.experts import LoraChoice
from export.lora.folder import merge_loras
from export.lora.lora_file import LoraError
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


def test_a_merge_into_a_link_goes_to_the_disk_that_it_names(tmp_path: Path) -> None:
    lora, source = saved(tmp_path / "lora.safetensors", of_lightx2v("links")), Checkpoint.open(MINI)
    big, into = tmp_path / "big", tmp_path / "into"
    (big / "merged").mkdir(parents=True)
    into.symlink_to(big / "merged")
    (big / ".merged.k3_x9abc.partial").mkdir()
    for scale in (1.0, 0.5):
        assert merge_loras(source, LoraChoice(str(lora), "none", scale=scale), into) == into, "as the user named it"
        (record,) = read_manifest(MergedLoras, big / "merged" / MERGED_LORAS).loras["transformer"]
        assert record.scale == scale
    assert into.is_symlink() and [path.name for path in big.iterdir()] == ["merged"], "and a killed merge's are gone"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "into", lora.name]


def test_a_merge_into_a_link_to_nothing_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "into").symlink_to("unmounted/merged")
    with pytest.raises(LoraError, match=r"into is a link to unmounted/merged, which is not there.* LORA_INTO="):
        merge_loras(Checkpoint.open(MINI), LoraChoice("no such file", "none"), tmp_path / "into")


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """A link to a folder that a user was given on a disk of others."""
    (tmp_path / "disk/mine").mkdir(parents=True)
    (tmp_path / "model-lora").symlink_to(tmp_path / "disk/mine")
    return tmp_path / "model-lora"


def lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Say that `folder` may not be written to, which no mode says to root."""
    monkeypatch.setattr("os.access", lambda path, mode: path != folder)


def test_a_link_to_a_folder_that_cannot_be_renamed_is_refused_before_any_work(
    link: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock(tmp_path / "disk", monkeypatch)
    remedy = rf"disk may not be written to. Name a folder inside of it: LORA_INTO={link}/model-lora, or make {tmp_path}"
    with pytest.raises(LoraError, match=rf"{remedy}/disk/mine/model-lora and link to that\.$"):
        merge_loras(Checkpoint.open(MINI), LoraChoice("no such file", "none"), link)
    with pytest.raises(LoraError, match=r"no such file"):
        merge_loras(Checkpoint.open(MINI), LoraChoice("no such file", "none"), link / "model-lora")
    lock(tmp_path, monkeypatch)
    with pytest.raises(LoraError, match=r"may not be written to. Name a folder on a disk .*: LORA_INTO=\.\.\.$"):
        merge_loras(Checkpoint.open(MINI), LoraChoice("no such file", "none"), tmp_path / "new/merged")


def test_a_mounted_disk_is_refused_before_any_work(link: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.ismount", lambda path: path == link.resolve())
    with pytest.raises(LoraError, match=r"mine is where a disk is mounted.* LORA_INTO=.*model-lora/model-lora"):
        merge_loras(Checkpoint.open(MINI), LoraChoice("no such file", "none"), link)


def test_a_merge_in_a_place_that_was_locked_since_is_kept_and_not_replaced(
    link: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora, source = str(saved(tmp_path / "lora.safetensors", of_lightx2v("links"))), Checkpoint.open(MINI)
    merge_loras(source, LoraChoice(lora, "none"), link)
    lock(tmp_path / "disk", monkeypatch)
    assert merge_loras(source, LoraChoice(lora, "none"), link) == link
    with pytest.raises(LoraError, match=r"disk may not be written to"):
        merge_loras(source, LoraChoice(lora, "none", scale=0.5), link)
