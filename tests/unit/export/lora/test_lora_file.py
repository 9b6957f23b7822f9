"""What is no file of a LoRA's tensors: one line that says what it is and the remedy."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from export.lora.lora_file import LoraError, LoraFile, read_fp32
from tests.unit.export.lora.lora_files import of_diffusers, saved


def test_a_folder_a_missing_file_and_pickled_weights_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "folder/adapter_model.safetensors", of_diffusers())
    (tmp_path / "lora.pt").write_bytes(b"")
    for name, told in {
        "folder": "is a folder. Name the file in it: adapter_model.safetensors",
        "nowhere.safetensors": "is missing: no such file. LORA_HIGH and LORA_LOW name",
        "lora.pt": "is no .safetensors file, and pickled weights are not read",
    }.items():
        with pytest.raises(LoraError, match=told):
            LoraFile.open(tmp_path / name)


def test_a_pointer_a_half_file_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "lora.safetensors", of_diffusers())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LoraError, match="truncated or damaged"):
        LoraFile.open(path)
    state = path.with_name(f"{path.name}.aria2")
    state.touch()
    with pytest.raises(LoraError, match=r"lora.safetensors is not whole: lora.safetensors.aria2 beside it"):
        LoraFile.open(path)
    state.unlink()
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(LoraError, match="pointer file of Git LFS"):
        LoraFile.open(path)
    save_file({}, path)
    with pytest.raises(LoraError, match="holds no tensors"):
        LoraFile.open(path)


@pytest.mark.parametrize(
    ("name", "dtype", "told"),
    [
        ("a.lora_A.weight", torch.float64, "F64"),
        ("a.lora_up.weight", torch.float8_e4m3fn, "F8_E4M3"),
        ("a.lora_down.weight", torch.int64, "I64"),
        ("a.alpha", torch.int16, "I16"),
    ],
)
def test_numbers_of_another_type_are_refused(name: str, dtype: torch.dtype, told: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "lora.safetensors", {name: torch.ones(2, 2).to(dtype)})
    with pytest.raises(
        LoraError, match=f"{name} is stored as {told}, accepted: F32, F16, BF16. Save the LoRA in one of these."
    ):
        LoraFile.open(path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float64])
def test_alpha_is_read_as_a_whole_number_too(dtype: torch.dtype, tmp_path: Path) -> None:
    path = saved(tmp_path / "lora.safetensors", {"a.alpha": torch.tensor(8, dtype=dtype)})
    assert read_fp32(LoraFile.open(path).tensors["a.alpha"]).tolist() == [8.0]
    saved(path, {"a.alpha": torch.tensor([8, 8], dtype=dtype)})
    with pytest.raises(LoraError, match="a.alpha is stored as .*, accepted: F32, F16, BF16"):
        LoraFile.open(path)
