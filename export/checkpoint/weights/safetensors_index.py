"""Index of a component's tensors: file, offset and length of each, from the safetensors headers alone.

Format: eight bytes of header length (little-endian), a JSON header, the data; `data_offsets` count from the header's
end (https://github.com/huggingface/safetensors#format). A sharded component has an index file that names the shards.
"""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checkpoint.config_file import CheckpointError, object_without_repeats, unreadable
from export.checkpoint.weights.foreign_weights import foreign_type
from export.checkpoint.weights.weight_files import shard_of_tensor, weight_files

BYTES_OF = {"F32": 4, "F16": 2, "BF16": 2}  # types that Wan's checkpoints are stored in
MAX_HEADER_BYTES = 100_000_000  # limit of the safetensors format
OtherType = Callable[[str, str, str, Mapping[str, object]], str]  # path, tensor, type, all names -> message
SAMPLE_BYTES = 4096
_MOST_DIMENSIONS = 8
_MOST = 2**48  # no length and no offset is larger; the product of hundreds of huge numbers would take hours
_METADATA = "__metadata__"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a `.safetensors` file. `offset` is in bytes from the start of the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def stored_tensors(checkpoint: Path, component: str, *, links_allowed: bool = False) -> dict[str, StoredTensor]:
    """Index every tensor of a component by name.

    Raises CheckpointError for files that are missing, truncated or damaged, and for links unless `links_allowed`.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in weight_files(checkpoint, component, links_allowed=links_allowed):
        for name, tensor in tensors_of_file(path).items():
            if name in tensors:
                raise CheckpointError(f"{name} is in two files: {tensors[name].path} and {path}. Download it again.")
            tensors[name] = tensor
    _check_index(checkpoint, component, tensors)
    return tensors


def content_sample_sha256(checkpoint: Path, component: str) -> str:
    """Return one SHA-256 over a component's config, its headers and the first 4 KiB of every tensor.

    Hashing all of A14B's 126 GB would take longer than the export. Samples distinguish checkpoints; they do not detect
    a damaged byte elsewhere. Links are followed, since a hash does not refer to the files.
    """
    digest = hashlib.sha256((checkpoint / component / "config.json").read_bytes())
    for name, tensor in sorted(stored_tensors(checkpoint, component, links_allowed=True).items()):
        digest.update(f"{name} {tensor.path.name} {tensor.dtype} {tensor.shape} {tensor.offset}".encode())
        digest.update(read_sample(tensor))
    return digest.hexdigest()


def read_sample(tensor: StoredTensor, *, start: int = 0) -> bytes:
    """Read 4 KiB of a tensor's bytes from `start`, or those up to its end."""
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset + start)
        return file.read(min(tensor.nbytes - start, SAMPLE_BYTES))


def _check_index(checkpoint: Path, component: str, tensors: dict[str, StoredTensor]) -> None:
    for name, file in shard_of_tensor(checkpoint, component).items():
        if name not in tensors or tensors[name].path.name != file:
            raise CheckpointError(
                f"{checkpoint / component}: the index puts {name} into {file}, where it is not. Download both again."
            )


def tensors_of_file(
    path: Path, *, bytes_of: Mapping[str, int] = BYTES_OF, other_type: OtherType = foreign_type
) -> dict[str, StoredTensor]:
    """Index every tensor of one file by name.

    `bytes_of` has the accepted types, `other_type` makes the message for a tensor of another type.
    Raises CheckpointError.
    """
    header, start = _header(path)
    entries = {name: entry for name, entry in header.items() if name != _METADATA}
    tensors = {}
    for name, entry in entries.items():
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        if isinstance(dtype, str) and dtype not in bytes_of:
            raise CheckpointError(other_type(str(path), name, dtype, entries))
        tensors[name] = _tensor(path, name, entry, start=start, bytes_of=bytes_of)
    end = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.offset != end:
            raise _damaged(path, f"{name} begins at byte {tensor.offset:,} and not at {end:,}")
        end += tensor.nbytes
    if path.stat().st_size != end:
        raise CheckpointError(
            f"{path} has {path.stat().st_size:,} bytes and its header describes {end:,}: truncated or damaged. "
            "Download it again."
        )
    return tensors


def metadata_of_file(path: Path) -> dict[str, str]:
    """Return the header's `__metadata__`. Raises CheckpointError."""
    entries = _header(path)[0].get(_METADATA)
    return {str(name): str(value) for name, value in entries.items()} if isinstance(entries, dict) else {}


def header_of(tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """Encode the header of a file with these tensors, each a type and a shape. Their data follow it without gaps.

    It is the JSON's length and the JSON, padded with spaces to a multiple of eight bytes.
    """
    entries, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * BYTES_OF[dtype]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    header = json.dumps({_METADATA: {"format": "pt", **metadata}, **entries}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header


def _header(path: Path) -> tuple[dict[str, Any], int]:
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, path.stat().st_size - 8):
                raise CheckpointError(
                    f"{path} is no safetensors file, or is truncated in its header. Download it again."
                )
            header = json.loads(file.read(length), object_pairs_hook=object_without_repeats)
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(header, dict):
        raise _damaged(path, f"it is a JSON {type(header).__name__}")
    return header, 8 + length


def _tensor(path: Path, name: str, entry: Any, *, start: int, bytes_of: Mapping[str, int]) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        itemsize = bytes_of[dtype]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"{name}: {error!r}") from None
    numbers = (*shape, begin, end)
    if len(shape) > _MOST_DIMENSIONS or any(type(one) is not int or not 0 <= one < _MOST for one in numbers):
        raise _damaged(path, f"{name[:80]}: shape {str(shape)[:80]}, offsets {str(begin)[:20]} and {str(end)[:20]}")
    if end - begin != math.prod(shape) * itemsize:
        raise CheckpointError(
            f"{path}: {name} {shape} {dtype} does not have {end - begin:,} bytes: damaged. Download it again."
        )
    return StoredTensor(path, dtype, shape, start + begin, end - begin)


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} has a damaged header ({reason}). Download it again.")
