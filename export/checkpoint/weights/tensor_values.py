"""Values of stored tensors, read in pieces: whether they are finite, there at all, or those of another tensor."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from export.checkpoint.config_file import CheckpointError, listed
from export.checkpoint.weights.safetensors_index import SAMPLE_BYTES, StoredTensor, read_sample

TORCH_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CHUNK_BYTES = 1 << 24
_PLACES = 8  # of a matrix, read to find one that was never downloaded
# Exponent bits by type: all of them are set in an infinity and in NaN.
_EXPONENTS = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}


def check_finite(where: str, stored: Mapping[str, StoredTensor]) -> None:
    """Refuse weights with an infinity or NaN. Raises CheckpointError with the tensors' names."""
    wrong = [name for name, tensor in stored.items() if not _is_finite(tensor)]
    if wrong:
        raise CheckpointError(
            f"{where}: {len(wrong)} tensors hold values that are infinite or no numbers: {listed(wrong)}. "
            "The checkpoint is damaged, or was converted to a type that its values do not fit in. Download it again."
        )


def check_no_holes(where: str, stored: Mapping[str, StoredTensor]) -> None:
    """Refuse matrices of zeros, as in a file of full length whose download was broken off. Raises CheckpointError.

    A matrix is read at eight places from its start to its end, since a good one may have a row of zeros. Biases, norms
    and tables may be zeros by design and are not read.
    """
    holes = [name for name, tensor in stored.items() if _is_matrix(name, tensor) and not _any_bit_in_samples(tensor)]
    if holes:
        raise CheckpointError(
            f"{where}: {len(holes)} matrices hold only zeros, as in a file of which parts were not downloaded: "
            f"{listed(holes)}. Download it again."
        )


def any_bit(tensor: StoredTensor) -> bool:
    """Whether a tensor has a value other than zero. All of it is read, if need be."""
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset)
        return any(any(file.read(size)) for size in _chunks(tensor.nbytes))


def are_equal(first: StoredTensor, second: StoredTensor) -> bool:
    """Whether two tensors have the same type, shape and values."""
    if replace(first, path=Path(), offset=0) != replace(second, path=Path(), offset=0):
        return False
    with first.path.open("rb") as one, second.path.open("rb") as other:
        one.seek(first.offset)
        other.seek(second.offset)
        return all(one.read(size) == other.read(size) for size in _chunks(first.nbytes))


def samples_are_equal(tensor: StoredTensor, loaded: torch.Tensor) -> bool:
    """Whether a tensor in memory has a stored one's shape, and at eight places its values in the type in memory."""
    if tuple(loaded.shape) != tensor.shape:
        return False
    flat, kind = loaded.detach().reshape(-1), TORCH_TYPES[tensor.dtype]
    for start in _places(tensor) if tensor.nbytes else ():
        expected = torch.frombuffer(bytearray(read_sample(tensor, start=start)), dtype=kind).to(loaded.dtype)
        first = start // kind.itemsize
        if not torch.allclose(flat[first : first + len(expected)], expected, rtol=0.0, atol=0.0, equal_nan=True):
            return False
    return True


def _is_finite(tensor: StoredTensor) -> bool:
    kind, exponent = _EXPONENTS[tensor.dtype]
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset)
        for size in _chunks(tensor.nbytes):
            bits = np.frombuffer(file.read(size), dtype=kind)
            if ((bits & kind(exponent)) == exponent).any():
                return False
    return True


def _is_matrix(name: str, tensor: StoredTensor) -> bool:
    return name.endswith(".weight") and sum(length > 1 for length in tensor.shape) >= 2


def _any_bit_in_samples(tensor: StoredTensor) -> bool:
    return any(any(read_sample(tensor, start=place)) for place in _places(tensor))


def _places(tensor: StoredTensor) -> list[int]:
    """Return the bytes at which samples of a tensor begin, each a value's first."""
    size = TORCH_TYPES[tensor.dtype].itemsize
    last = max(0, tensor.nbytes - SAMPLE_BYTES) // size
    return sorted({last * place // (_PLACES - 1) * size for place in range(_PLACES)})


def _chunks(total: int) -> Iterable[int]:
    return (min(_CHUNK_BYTES, total - start) for start in range(0, total, _CHUNK_BYTES))
