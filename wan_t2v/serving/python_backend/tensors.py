"""Conversion between Triton's tensors and arrays. Large inputs are views: nothing is copied."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wan_t2v.engines.engine import Array


def to_triton(pb_utils: Any, name: str, array: Array) -> Any:
    """Make a Triton tensor of a numpy array, or of a torch tensor on any device.

    A torch tensor is passed as it is, not as a DLPack capsule: only then does Triton wait for its CUDA stream.
    An empty one is always made on the CPU: on a GPU Triton logs a failed allocation for it.
    """
    if not isinstance(array, np.ndarray) and array.numel() == 0:
        array = array.new_empty(array.shape, device="cpu")
    if not isinstance(array, np.ndarray) and array.device.type == "cpu" and array.dtype.itemsize != 2:
        array = array.detach().numpy()  # but for BF16, which numpy does not have
    if isinstance(array, np.ndarray):
        return pb_utils.Tensor(name, np.ascontiguousarray(array))
    return pb_utils.Tensor.from_dlpack(name, array.detach().contiguous())


def text_to_triton(pb_utils: Any, name: str, *values: str | bytes) -> Any:
    """Make a BYTES tensor of these values; without values it is empty."""
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return pb_utils.Tensor(name, np.array(encoded, dtype=np.object_))


def numpy_from_triton(tensor: Any) -> NDArray[Any]:
    """Return a numpy view of a CPU tensor; it keeps the tensor's memory alive."""
    array: NDArray[Any] = tensor.as_numpy()
    return array


def torch_from_triton(tensor: Any) -> Any:
    """Return a torch view of a Triton tensor on any device and of any type (numpy has no BF16)."""
    import torch.utils.dlpack

    return torch.utils.dlpack.from_dlpack(tensor.to_dlpack())


def unread(tensor: Any) -> Any:
    """Return the Triton tensor itself, for a model that only passes it on (numpy cannot hold BF16)."""
    return tensor


def rename_tensor(pb_utils: Any, name: str, tensor: Any) -> Any:
    """Return a tensor over the same memory with another name."""
    return pb_utils.Tensor.from_dlpack(name, tensor.to_dlpack())


def byte_size(tensor: Any) -> int:
    """Return the bytes of a tensor's elements in CPU memory; of a BYTES tensor, those of its values; of a GPU's, 0."""
    if not tensor.is_cpu():
        return 0
    array = tensor.as_numpy()
    return sum(map(len, array.flat)) if array.dtype == np.object_ else int(array.nbytes)


def bytes_from_triton(tensor: Any) -> bytes:
    """Return the first element of a BYTES tensor."""
    value: bytes = tensor.as_numpy().reshape(-1)[0]
    return value
