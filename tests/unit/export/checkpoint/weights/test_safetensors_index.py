import json
import math
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from export.checkpoint.config_file import object_without_repeats
from export.checkpoint.folder import CheckpointError
from export.checkpoint.weights.safetensors_index import content_sample_sha256, stored_tensors

STEM = "diffusion_pytorch_model"


@pytest.fixture
def component(tmp_path: Path) -> Path:
    """A component in two shards of different types, as transformers and diffusers write them."""
    folder = tmp_path / "transformer"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    shards = {
        f"{STEM}-00001-of-00002.safetensors": {"a.weight": torch.randn(3, 5), "a.bias": torch.randn(5)},
        f"{STEM}-00002-of-00002.safetensors": {"b.weight": torch.randn(2, 2, 2).to(torch.bfloat16)},
    }
    for name, tensors in shards.items():
        save_file(tensors, folder / name, metadata={"format": "pt"})
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def shard(component: Path, number: int) -> Path:
    return component / f"{STEM}-{number:05}-of-00002.safetensors"


def test_offsets_are_those_of_the_safetensors_library(component: Path) -> None:
    found = stored_tensors(component.parent, "transformer")
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
        "a.weight": ("F32", (3, 5)),
        "a.bias": ("F32", (5,)),
        "b.weight": ("BF16", (2, 2, 2)),
    }
    for name, tensor in found.items():
        with safe_open(tensor.path, "pt") as file:
            expected = file.get_tensor(name)
        raw = tensor.path.read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
        assert torch.equal(torch.frombuffer(bytearray(raw), dtype=expected.dtype).view(expected.shape), expected)


def test_one_file_without_an_index_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "text_encoder").mkdir()
    save_file({"shared.weight": torch.ones(4, 2)}, tmp_path / "text_encoder/model.safetensors")
    assert stored_tensors(tmp_path, "text_encoder")["shared.weight"].shape == (4, 2)


@pytest.mark.parametrize(("link", "kind"), [("symlink_to", "a symbolic link"), ("hardlink_to", "a hard link")])
def test_a_link_as_in_the_hubs_cache_is_refused_with_the_remedy(
    component: Path, tmp_path: Path, link: str, kind: str
) -> None:
    path = shard(component, 1)
    getattr(path, link)(path.rename(tmp_path / "blob"))
    with pytest.raises(CheckpointError, match=rf"is {kind}.* --local-dir FOLDER` or `cp -rL SNAPSHOT FOLDER`"):
        stored_tensors(component.parent, "transformer")


@pytest.mark.parametrize("lost", [1, 40])
def test_a_truncated_shard_is_an_error_that_names_both_sizes(component: Path, lost: int) -> None:
    path = shard(component, 1)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - lost)
    with pytest.raises(CheckpointError, match=rf"{path.name} has {size - lost} bytes and its header describes {size}"):
        stored_tensors(component.parent, "transformer")


@pytest.mark.parametrize("content", [b"", b"\x10\x00\x00", b"\xff" * 16, b"\x04\x00\x00\x00\x00\x00\x00\x00{{{{"])
def test_a_file_without_a_header_is_refused(component: Path, content: bytes) -> None:
    shard(component, 2).write_bytes(content)
    with pytest.raises(CheckpointError, match="is no safetensors file|has a damaged header"):
        stored_tensors(component.parent, "transformer")


@pytest.mark.parametrize("shape", [[1] * 9, [2**48], [-1], [True], ["1"], [9**4000] * 8])
def test_a_shape_that_no_tensor_has_is_refused_before_it_is_multiplied(component: Path, shape: list[int]) -> None:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}
    header = json.dumps({"a.bias": entry}).encode()
    shard(component, 2).write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(CheckpointError, match=r"damaged header \(a.bias: shape .{1,90}, offsets 0 and 4"):
        stored_tensors(component.parent, "transformer")


class CountedName(str):
    """A name that counts how often it is compared."""

    comparisons = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        CountedName.comparisons += 1
        return super().__eq__(other)


def test_a_repeated_name_is_found_in_a_time_that_grows_with_the_names() -> None:
    names = [CountedName(number) for number in (*range(1000), 999)]
    with pytest.raises(ValueError, match="999 stands there twice"):
        object_without_repeats([(name, 0) for name in names])
    assert CountedName.comparisons < 10 * len(names)


def test_a_missing_shard_and_a_wrong_index_are_named(component: Path) -> None:
    index = component / f"{STEM}.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"metadata": {}, "weight_map": {**weight_map, "a.bias": shard(component, 2).name}}))
    with pytest.raises(
        CheckpointError, match="the index puts a.bias into .*00002-of-00002.safetensors, where it is not"
    ):
        stored_tensors(component.parent, "transformer")
    shard(component, 2).unlink()
    with pytest.raises(CheckpointError, match="00002-of-00002.safetensors is missing"):
        stored_tensors(component.parent, "transformer")


def test_a_quantised_checkpoint_is_refused(component: Path) -> None:
    tensors = {"b.weight": torch.zeros(math.prod((2, 2, 2)), dtype=torch.int8)}
    save_file(tensors, shard(component, 2))
    with pytest.raises(CheckpointError, match="b.weight is stored as I8, accepted: F32, F16, BF16"):
        stored_tensors(component.parent, "transformer")


def test_the_sample_hash_changes_with_the_weights(component: Path) -> None:
    before = content_sample_sha256(component.parent, "transformer")
    assert content_sample_sha256(component.parent, "transformer") == before
    found = stored_tensors(component.parent, "transformer")["a.bias"]
    with found.path.open("r+b") as file:
        file.seek(found.offset)
        file.write(b"\x01")
    assert content_sample_sha256(component.parent, "transformer") != before


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_link_has_the_hash_of_its_file(component: Path, tmp_path: Path, link: str) -> None:
    """A hash refers to no file, and calibration and merges need it of the hub's cache too."""
    before = content_sample_sha256(component.parent, "transformer")
    path = shard(component, 1)
    getattr(path, link)(path.rename(tmp_path / "blob"))
    assert content_sample_sha256(component.parent, "transformer") == before
