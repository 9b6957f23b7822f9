"""A merge again: what it notices in the source and in the merged folder, and what of the user's it keeps."""

import json
import shutil
from pathlib import Path

import pytest

from export.checkpoint.folder import Checkpoint
from export.lora.copied_files import COPIED_FILES
from export.lora.experts import LoraChoice
from export.lora.folder import merge_loras
from tests.unit.export.lora.lora_files import MINI, of_lightx2v, saved
from wan_t2v.facts import DEFAULTS_FILE

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
