"""Names that differ in their beginning alone merge to the values of the format that diffusers reads."""

from pathlib import Path

import pytest
from torch import Tensor

from export.checkpoint.folder import Checkpoint
from export.lora.experts import LoraChoice
from export.lora.folder import merge_loras
from tests.unit.export.lora.lora_files import MINI, of_kohya, of_lightx2v, saved

SHARD = "transformer/diffusion_pytorch_model.safetensors"


def merged(tensors: dict[str, Tensor], folder: Path) -> bytes:
    """The expert's shard after a merge of these tensors."""
    lora = saved(folder / "lora.safetensors", tensors)
    into = merge_loras(Checkpoint.open(MINI), LoraChoice(str(lora), "none"), folder / "merged")
    return (into / SHARD).read_bytes()


@pytest.mark.parametrize(
    ("known", "tensors", "prefix"),
    [
        ("lora_unet_", of_kohya(), "lora_unet__"),
        ("diffusion_model.", of_lightx2v(), "pipe.dit."),
        ("diffusion_model.", of_lightx2v(), "base_model.model.diffusion_model."),
    ],
    ids=["VideoX-Fun", "DiffSynth", "PEFT around Wan's names"],
)
def test_another_beginning_gives_the_same_weights(
    known: str, tensors: dict[str, Tensor], prefix: str, tmp_path: Path
) -> None:
    renamed = {f"{prefix}{name.removeprefix(known)}": tensor for name, tensor in tensors.items()}
    assert not renamed.keys() & tensors.keys()
    weights = merged(renamed, tmp_path / "renamed")
    assert weights == merged(tensors, tmp_path / "known") != (MINI / SHARD).read_bytes()
