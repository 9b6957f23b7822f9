"""The choice of a file per expert: both named, not one twice, not one for the other."""

from pathlib import Path

import pytest

from export.lora.experts import LoraChoice
from export.lora.lora_file import LoraError
from tests.unit.export.lora.lora_files import of_diffusers, saved


@pytest.mark.parametrize(
    ("high", "low", "told"),
    [
        ("a.safetensors", None, "LORA_HIGH=a.safetensors came without LORA_LOW: .*or LORA_LOW=none to leave it"),
        (None, "b.safetensors", "LORA_LOW=b.safetensors came without LORA_HIGH: .*or LORA_HIGH=none to leave it"),
        (None, None, "No LoRA came: LORA_HIGH and LORA_LOW name"),
        ("none", "none", "No LoRA came"),
    ],
)
def test_both_experts_are_named(high: str | None, low: str | None, told: str) -> None:
    with pytest.raises(LoraError, match=told):
        LoraChoice(high, low)


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_a_strength_is_a_finite_number_other_than_0(scale: float) -> None:
    with pytest.raises(LoraError, match=f"LORA_SCALE={scale:g}: accepted is a finite number other than 0"):
        LoraChoice("a", "b", scale=scale)


def test_one_file_for_both_experts_is_refused_unless_said(tmp_path: Path) -> None:
    high, low = (saved(tmp_path / name, of_diffusers()) for name in ("one.safetensors", "copy.safetensors"))
    with pytest.raises(LoraError, match=r"are the same file .*LORA_OPTIONS=--same-file"):
        LoraChoice(str(high), str(low)).open_files()
    files = LoraChoice(str(high), str(low), same_file=True).open_files()
    assert list(files) == ["transformer", "transformer_2"]


@pytest.mark.parametrize(
    "name", ["wan_LowNoise_lora.safetensors", "my-LOW.safetensors", "low/adapter_model.safetensors"]
)
def test_a_file_that_is_named_for_the_other_expert_is_refused(name: str, tmp_path: Path) -> None:
    path = str(saved(tmp_path / name, of_diffusers()))
    with pytest.raises(LoraError, match="by its name the file is for the low-noise expert. Give it as LORA_LOW"):
        LoraChoice(path, "none").open_files()
    assert LoraChoice("none", path).open_files()


def test_names_of_both_or_of_neither_say_nothing(tmp_path: Path) -> None:
    for name in ("low_and_high_noise.safetensors", "flow_highlights.safetensors"):
        path = str(saved(tmp_path / name, of_diffusers()))
        assert LoraChoice(path, "none").open_files() and LoraChoice("none", path).open_files()


def test_tensors_of_the_second_expert_are_not_for_the_first(tmp_path: Path) -> None:
    tensors = {name.replace("transformer.", "transformer_2."): tensor for name, tensor in of_diffusers().items()}
    path = str(saved(tmp_path / "lora.safetensors", tensors))
    with pytest.raises(LoraError, match="has transformer_2.blocks.0.*, a tensor of the low-noise expert"):
        LoraChoice(path, "none").open_files()
    assert LoraChoice("none", path).open_files()
