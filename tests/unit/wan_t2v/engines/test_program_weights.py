"""Weights beside a torch program: they are read where the program says, and others are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from export.checkpoint.weights.safetensors_index import tensors_of_file
from wan_t2v.engines.program_weights import ProgramWeights, StoredWeight

CPU = torch.device("cpu")
LARGE = torch.arange(4000, dtype=torch.float32).reshape(40, 100)  # 16 KB, of which 4 KiB are sampled
SMALL = torch.tensor([0.1, -3.0, 7.0], dtype=torch.bfloat16)


@pytest.fixture
def weights(tmp_path: Path) -> ProgramWeights:
    """Two tensors in two files, described as the export describes them."""
    save_file({"large": LARGE}, tmp_path / "one.safetensors")
    save_file({"small": SMALL}, tmp_path / "two.safetensors")
    stored = tensors_of_file(tmp_path / "one.safetensors") | tensors_of_file(tmp_path / "two.safetensors")
    places = {f"net.{name}": StoredWeight(t.path.name, t.dtype, t.shape, t.offset) for name, t in stored.items()}
    return ProgramWeights.from_json(ProgramWeights.of_files(tmp_path, places).to_json())


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def test_values_have_the_parameters_types(weights: ProgramWeights, tmp_path: Path) -> None:
    wanted = {"net.large": empty(40, 100, dtype=torch.bfloat16), "net.small": empty(3)}
    values = weights.read(tmp_path, wanted, CPU)
    assert torch.equal(values["net.large"], LARGE.bfloat16()) and torch.equal(values["net.small"], SMALL.float())


def test_values_at_an_odd_offset_are_read(weights: ProgramWeights, tmp_path: Path) -> None:
    """Not every writer pads the header."""
    path, place = tmp_path / "one.safetensors", weights.tensors["net.large"]
    path.write_bytes(b"!" + path.read_bytes())
    moved = ProgramWeights.of_files(tmp_path, {"net.large": replace(place, offset=place.offset + 1)})
    assert torch.equal(moved.read(tmp_path, {"net.large": empty(40, 100)}, CPU)["net.large"], LARGE)


def test_good_files_pass(weights: ProgramWeights, tmp_path: Path) -> None:
    weights.check(tmp_path)


def test_a_missing_file_is_named(weights: ProgramWeights, tmp_path: Path) -> None:
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"two\.safetensors is missing\. It holds weights.*export\.to_torch_program"
    ):
        weights.check(tmp_path)


def test_a_link_to_nowhere_is_named_with_its_target(weights: ProgramWeights, tmp_path: Path) -> None:
    """The file is there for `ls`; the checkpoint's disk is not mounted."""
    (tmp_path / "two.safetensors").unlink()
    (tmp_path / "two.safetensors").symlink_to("/nowhere/two.safetensors")
    with pytest.raises(FileNotFoundError, match=r"is a link to /nowhere/two\.safetensors, which is not there"):
        weights.check(tmp_path)


def test_parameters_of_one_stored_tensor_share_their_memory(weights: ProgramWeights, tmp_path: Path) -> None:
    """As a tied embedding does: 2.1 GB for A14B's text encoder."""
    tied = replace(weights, tensors={**weights.tensors, "net.again": weights.tensors["net.large"]})
    values = tied.read(tmp_path, dict.fromkeys(("net.large", "net.again"), empty(40, 100, dtype=torch.bfloat16)), CPU)
    assert values["net.large"].data_ptr() == values["net.again"].data_ptr()


def test_a_file_may_be_larger_than_the_memory(tmp_path: Path) -> None:
    """A mapping that could be written would need all of it."""
    path, size = tmp_path / "sparse.safetensors", 1 << 42
    with path.open("wb") as file:
        file.truncate(size)
    place = StoredWeight(path.name, "F32", (3,), size - 12)
    weights = ProgramWeights.of_files(tmp_path, {"last": place})
    assert torch.equal(weights.read(tmp_path, {"last": empty(3)}, CPU)["last"], torch.zeros(3))


@pytest.mark.parametrize("fault", ["truncated", "another checkpoint's"])
def test_another_file_is_refused(fault: str, weights: ProgramWeights, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        save_file({"large": LARGE + 1}, path)
    with pytest.raises(ValueError, match=r"one\.safetensors is not the file.*export\.to_torch_program"):
        weights.check(tmp_path)


@pytest.mark.parametrize(
    ("name", "shape", "found"),
    [("net.other", (3,), "no file has it"), ("net.small", (4,), r"its file has the shape \(3,\)")],
)
def test_a_parameter_that_no_file_fits_is_named(
    name: str, shape: tuple[int, ...], found: str, weights: ProgramWeights, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"{name} of the program .* and {found}"):
        weights.read(tmp_path, {name: empty(*shape)}, CPU)
