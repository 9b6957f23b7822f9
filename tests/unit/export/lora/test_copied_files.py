"""A merge again: what it notices in the source and in the merged folder, and what of the user's it keeps."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from export.checkpoint.folder import Checkpoint, CheckpointError
from export.checkpoint.layout import MADE_BY_DRY_RUN, is_of_a_dry_run
from export.checkpoint.weights.safetensors_index import stored_tensors
from export.lora import folder as folder_module
from export.lora.copied_files import COPIED_FILES
from export.lora.experts import LoraChoice
from export.lora.folder import merge_loras
from export.lora.lora_file import LoraError
from export.to_onnx.a14b_dummy import write_dummy
from tests.fakes.small_configs import small_configs
from tests.unit.export.checkpoint.damages import EXPERT, half_downloaded
from tests.unit.export.lora.lora_files import MINI, of_lightx2v, saved
from wan_t2v.facts import DEFAULTS_FILE
from wan_t2v.manifests import MERGED_LORAS

VAE = "vae/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI, tmp_path / "mini"))


@pytest.fixture
def lora(tmp_path: Path) -> str:
    return str(saved(tmp_path / "lora.safetensors", of_lightx2v("again")))


def merge(source: Path, lora: str, scale: float = 1.0) -> Path:
    return merge_loras(Checkpoint.open(source), LoraChoice(lora, "none", scale=scale), source.with_name("merged"))


def with_steps(path: Path, steps: int) -> bytes:
    """Other serving defaults."""
    defaults = json.loads((MINI / DEFAULTS_FILE).read_text())
    defaults["num_inference_steps"]["value"] = steps
    path.write_text(json.dumps(defaults))
    return path.read_bytes()


def test_the_same_merge_is_kept(source: Path, lora: str) -> None:
    inode = merge(source, lora).stat().st_ino
    assert merge(source, lora).stat().st_ino == inode


def test_an_expert_with_holes_is_not_merged_and_hidden(source: Path, lora: str) -> None:
    half_downloaded(EXPERT, (source / EXPERT).stat().st_size // 3)(source)
    with pytest.raises(CheckpointError, match="matrices hold only zeros"):
        merge(source, lora)
    assert not source.with_name("merged").exists()


def test_a_merge_of_a_dry_runs_checkpoint_is_no_damaged_download(tmp_path: Path) -> None:
    """Nor is a merge of that merge. The marker is not copied: a dry run would replace the folder."""
    dummy = write_dummy(tmp_path / "dummy", small_configs())
    layer = "blocks.0.attn1.to_q"
    rows, columns = stored_tensors(dummy, "transformer")[f"{layer}.weight"].shape
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, columns), f"{layer}.lora_B.weight": torch.ones(rows, 2)}
    lora = saved(tmp_path / "lora.safetensors", {f"transformer.{name}": tensor for name, tensor in tensors.items()})
    choice = LoraChoice(str(lora), "none", some_blocks=True)
    once = merge_loras(Checkpoint.open(dummy), choice, tmp_path / "once")
    twice = merge_loras(Checkpoint.open(once), choice, tmp_path / "twice")
    for merged in (once, twice):
        Checkpoint.open(merged).check()
        assert not is_of_a_dry_run(merged) and MADE_BY_DRY_RUN not in (merged / MERGED_LORAS).read_text()
    assert merge_loras(Checkpoint.open(dummy), choice, once) == once


def test_a_merge_whose_folder_another_merge_removed_says_so(
    source: Path, lora: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later one takes it for what a killed merge left."""
    write = folder_module.write_merged_shard

    def meanwhile(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(folder_module, "write_merged_shard", write)
        merge(source, lora, scale=0.5)
        write(*arguments, **options)

    monkeypatch.setattr(folder_module, "write_merged_shard", meanwhile)
    with pytest.raises(LoraError, match="Another merge into .*merged began during this one, and goes on. Run one at"):
        merge(source, lora)
    assert Checkpoint.open(source.with_name("merged")).merged_loras is not None, "the later one is whole"


@pytest.mark.parametrize("name", [VAE, SCHEDULER, DEFAULTS_FILE])
def test_a_changed_file_of_the_source_is_copied_anew(name: str, source: Path, lora: str) -> None:
    merged = merge(source, lora)
    if name == DEFAULTS_FILE:
        with_steps(source / name, 7)
    elif name == VAE:
        changed = bytearray((source / name).read_bytes())
        changed[-1] ^= 1
        (source / name).write_bytes(changed)
    else:
        (source / name).write_text((source / name).read_text() + " ")
    merge(source, lora)
    assert (merged / name).read_bytes() == (source / name).read_bytes()


def test_a_damaged_merge_is_made_again(source: Path, lora: str) -> None:
    merged = merge(source, lora)
    shard = merged / "transformer/diffusion_pytorch_model.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    merge(source, lora)
    assert shard.read_bytes() == whole


@pytest.mark.parametrize("recorded", [True, False])
def test_serving_defaults_of_the_user_are_carried_over(recorded: bool, source: Path, lora: str) -> None:
    """Also from a folder that was merged before the copied files were written down."""
    merged = merge(source, lora)
    own = with_steps(merged / DEFAULTS_FILE, 4)
    if not recorded:
        (merged / COPIED_FILES).unlink()
    merge(source, lora, scale=0.5)
    assert (merged / DEFAULTS_FILE).read_bytes() == own
    with_steps(source / DEFAULTS_FILE, 7)
    merge(source, lora, scale=0.25)
    assert (merged / DEFAULTS_FILE).read_bytes() == own, "the user's own one stays, whatever the source says"


def test_the_sources_serving_defaults_are_no_users(source: Path, lora: str) -> None:
    merged = merge(source, lora)
    new = with_steps(source / DEFAULTS_FILE, 7)
    merge(source, lora, scale=0.5)
    assert (merged / DEFAULTS_FILE).read_bytes() == new


def test_what_a_killed_merge_left_is_removed(source: Path, lora: str) -> None:
    left = source.with_name(".merged.k3_x9abc.partial")
    (left / "transformer").mkdir(parents=True)
    merge(source, lora)
    assert not left.exists()
