"""Where each tensor of a checkpoint component lies: file, offset, length. Reads headers, never weights.

Format: eight bytes of header length (little-endian), a JSON header with `data_offsets` relative to its end, the data
(https://github.com/huggingface/safetensors#format). A sharded component has an index file that names the shards.
"""

import hashlib
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checkpoint import CheckpointError

BYTES_OF = {"F32": 4, "F16": 2, "BF16": 2}  # types that Wan's checkpoints are stored in
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_STEMS = {"text_encoder": "model"}  # transformers' file name; diffusers' models have another
_SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a `.safetensors` file. `offset` counts from the start of the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def stored_tensors(checkpoint: Path, component: str) -> dict[str, StoredTensor]:
    """Every tensor of a component by name.

    Raises CheckpointError for files that are missing, truncated, damaged, or links (see `check_files_are_here`).
    """
    found: dict[str, StoredTensor] = {}
    for path in weight_files(checkpoint, component):
        for name, tensor in _tensors_of(path).items():
            if name in found:
                raise CheckpointError(f"{name} is in two files: {found[name].path} and {path}.")
            found[name] = tensor
    _check_index(checkpoint, component, found)
    return found


def weight_files(checkpoint: Path, component: str) -> list[Path]:
    """The component's `.safetensors` files: the shards that its index names, or the one file."""
    folder = checkpoint / component
    single = folder / f"{_STEMS.get(component, 'diffusion_pytorch_model')}.safetensors"
    index = _index(checkpoint, component)
    files = sorted({folder / name for name in index.values()}) if index else [single]
    for path in files:
        _check_is_here(path)
    return files


def content_sample_sha256(checkpoint: Path, component: str) -> str:
    """One hash over a component's config, its headers and the first 4 KiB of every tensor.

    Reading all of A14B's 126 GB for a hash would take longer than its export; a sample tells checkpoints apart, and not
    a single damaged byte.
    """
    digest = hashlib.sha256((checkpoint / component / "config.json").read_bytes())
    for name, tensor in sorted(stored_tensors(checkpoint, component).items()):
        digest.update(f"{name} {tensor.path.name} {tensor.dtype} {tensor.shape} {tensor.offset}".encode())
        with tensor.path.open("rb") as file:
            file.seek(tensor.offset)
            digest.update(file.read(min(tensor.nbytes, _SAMPLE_BYTES)))
    return digest.hexdigest()


def _index(checkpoint: Path, component: str) -> dict[str, str]:
    path = checkpoint / component / f"{_STEMS.get(component, 'diffusion_pytorch_model')}.safetensors.index.json"
    if not path.exists():
        return {}
    try:
        weight_map: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (json.JSONDecodeError, KeyError) as error:
        raise CheckpointError(f"{path} is not an index of shards ({error!r}). Download it again.") from None
    return weight_map


def _check_index(checkpoint: Path, component: str, found: dict[str, StoredTensor]) -> None:
    for name, file in _index(checkpoint, component).items():
        if name not in found or found[name].path.name != file:
            raise CheckpointError(
                f"{checkpoint / component}: the index puts {name} into {file}, where it is not. Download both again."
            )


def _check_is_here(path: Path) -> None:
    """A file of its own: ONNX Runtime refuses symbolic links out of its folder, the ONNX checker hard ones too."""
    link = path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1)
    if link:
        kind = f"a symbolic link (to {path.readlink()})" if path.is_symlink() else "a hard link"
        raise CheckpointError(
            f"{path} is {kind}, as in the hub's cache. The graph refers to the weights beside it, and ONNX's tools "
            "refuse links there. Copy the checkpoint as real files: "
            "`hf download Wan-AI/Wan2.2-T2V-A14B-Diffusers --local-dir FOLDER` or `cp -rL SNAPSHOT FOLDER`."
        )
    if not path.is_file():
        there = ", ".join(sorted(p.name for p in path.parent.glob("*"))) if path.parent.is_dir() else "no such folder"
        raise CheckpointError(f"{path} is missing (found: {there}). Download the checkpoint again.")


def _tensors_of(path: Path) -> dict[str, StoredTensor]:
    header, start = _header(path)
    tensors = {
        name: _tensor(path, name, entry, start=start) for name, entry in header.items() if name != "__metadata__"
    }
    expected = max((tensor.offset + tensor.nbytes for tensor in tensors.values()), default=start)
    if path.stat().st_size != expected:
        raise CheckpointError(
            f"{path} has {path.stat().st_size:,} bytes and its header describes {expected:,}: truncated or damaged. "
            "Download it again."
        )
    return tensors


def _header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise CheckpointError(f"{path} is no safetensors file, or is truncated in its header. Download it again.")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
        except ValueError as error:
            raise CheckpointError(f"{path} has a damaged header ({error}). Download it again.") from None
    return header, 8 + length


def _tensor(path: Path, name: str, entry: dict[str, Any], *, start: int) -> StoredTensor:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    itemsize = BYTES_OF.get(entry["dtype"])
    if itemsize is None:
        raise CheckpointError(
            f"{path}: {name} is stored as {entry['dtype']}, accepted: {', '.join(BYTES_OF)}. Quantised checkpoints are "
            "not exported; take the published one."
        )
    if end - begin != math.prod(shape) * itemsize:
        raise CheckpointError(f"{path}: {name} {shape} {entry['dtype']} does not have {end - begin:,} bytes: damaged.")
    return StoredTensor(path, entry["dtype"], shape, start + begin, end - begin)
