"""The arithmetic of one tensor, in pieces; what its type cannot hold; and how little memory it takes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.checkpoint.weights.safetensors_index import tensors_of_file
from export.lora import merge
from export.lora.changes import Change, Offset, Product
from export.lora.lora_file import LoraError
from export.lora.merge import write_merged_shard


def test_a_tensor_is_the_same_in_pieces_and_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    numbers = {
        "weight": torch.randn(30, 4, 1, 2, 2, dtype=torch.float64),
        "up": torch.randn(30, 3, 1, 1, 1, dtype=torch.float64),
        "down": torch.randn(3, 4, 1, 2, 2, dtype=torch.float64),
        "diff": torch.randn(30, 4, 1, 2, 2, dtype=torch.float64),
    }
    save_file({name: tensor.float() for name, tensor in numbers.items()}, tmp_path / "all.safetensors")
    stored = tensors_of_file(tmp_path / "all.safetensors")
    changes: list[Change] = [Product(stored["up"], stored["down"], 0.5), Offset(stored["diff"], 1.0)]
    product = (numbers["up"].reshape(30, 3) @ numbers["down"].reshape(3, -1)).reshape(numbers["weight"].shape)
    expected = numbers["weight"] + 0.25 * (0.5 * product + numbers["diff"])
    for elements in (merge.PIECE_ELEMENTS, 7 * 16, 1):
        monkeypatch.setattr(merge, "PIECE_ELEMENTS", elements)
        write_merged_shard({"weight": stored["weight"]}, {"weight": changes}, scale=0.25, target=tmp_path / "out")
        torch.testing.assert_close(load_file(tmp_path / "out")["weight"].double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_sum_is_rounded_once_to_the_checkpoints_own_type(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight, diff = torch.randn(64, 8).to(dtype), 1e-3 * torch.randn(64, 8)
    save_file({"unchanged": torch.randn(5).to(dtype), "weight": weight}, tmp_path / "shard.safetensors")
    save_file({"diff": diff}, tmp_path / "lora.safetensors")
    offset = Offset(tensors_of_file(tmp_path / "lora.safetensors")["diff"], 1.0)
    stored = tensors_of_file(tmp_path / "shard.safetensors")
    write_merged_shard(stored, {"weight": [offset]}, scale=1.0, target=tmp_path / "out.safetensors")
    before, after = load_file(tmp_path / "shard.safetensors"), load_file(tmp_path / "out.safetensors")
    assert torch.equal(after["weight"], (weight.float() + diff).to(dtype)) and after["weight"].dtype == dtype
    assert torch.equal(after["unchanged"], before["unchanged"])
    assert tensors_of_file(tmp_path / "out.safetensors").keys() == stored.keys()


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1e5, torch.float16),
        (float("nan"), torch.float16),
        (float("nan"), torch.bfloat16),
        (float("inf"), torch.float32),
    ],
)
def test_a_sum_that_its_type_cannot_hold_is_refused(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(4, dtype=dtype)}, tmp_path / "shard.safetensors")
    save_file({"diff": torch.full((4,), value)}, tmp_path / "lora.safetensors")
    offset = Offset(tensors_of_file(tmp_path / "lora.safetensors")["diff"], 1.0)
    stored = tensors_of_file(tmp_path / "shard.safetensors")
    with pytest.raises(LoraError, match="weight: merged, it has values that are infinite or no numbers in B?F"):
        write_merged_shard(stored, {"weight": [offset]}, scale=1.0, target=tmp_path / "out.safetensors")


def test_a_tensor_without_values_is_written_as_it_is(tmp_path: Path) -> None:
    empty = {"rows": torch.zeros(0, 4), "columns": torch.zeros(4, 0), "weight": torch.ones(2)}
    save_file(empty, tmp_path / "shard.safetensors")
    stored = tensors_of_file(tmp_path / "shard.safetensors")
    write_merged_shard(stored, {}, scale=1.0, target=tmp_path / "out.safetensors")
    written = load_file(tmp_path / "out.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in written.items()} == {
        "rows": (0, 4),
        "columns": (4, 0),
        "weight": (2,),
    }


LARGE = """
import sys
from pathlib import Path
from export.checkpoint.weights.safetensors_index import StoredTensor
from export.lora.changes import Product
from export.lora.merge import write_merged_shard
from export.process_cost import process_cost
source, target = Path(sys.argv[1]), Path(sys.argv[2])
weight = StoredTensor(source, "F32", (2**14, 2**13), 0, 2**29)
up, down = StoredTensor(source, "F32", (2**14, 16), 0, 2**20), StoredTensor(source, "F32", (16, 2**13), 0, 2**19)
before = process_cost().peak_mb
write_merged_shard({"weight": weight}, {"weight": [Product(up, down, 1.0)]}, scale=1.0, target=target)
print(process_cost().peak_mb - before)
"""


def test_a_tensor_of_half_a_gibibyte_takes_little_memory_and_zeros_no_disk(tmp_path: Path) -> None:
    """A14B's largest has 283 MB in FP32, and its shards 5 GB."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**29)
    command = [sys.executable, "-c", LARGE, str(tmp_path / "large"), str(tmp_path / "merged")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    status = (tmp_path / "merged").stat()
    assert status.st_size > 2**29 and status.st_blocks * 512 < 2**20
    assert int(done.stdout) < 300, "of MB"
