"""Conversion between Triton's tensors and arrays. Large inputs are views: nothing is copied."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wan_t2v.engines.engine import Array


def to_triton(pb_utils: Any, name: str, array: Array) -> Any:
    """A Triton tensor over a numpy array, or over a torch tensor on any device.

    A torch tensor is handed over as it is, not as a DLPack capsule: only then does Triton wait for its CUDA stream.
    An empty one is always made on the CPU: on a GPU Triton logs a failed allocation for it.
    """
    if not isinstance(array, np.ndarray) and array.numel() == 0:
        array = array.new_empty(array.shape, device="cpu")
    if not isinstance(array, np.ndarray) and array.device.type == "cpu" and array.dtype.itemsize != 2:
        array = array.detach().numpy()  # numpy has no BF16; everything else on the CPU goes the plain way
    if isinstance(array, np.ndarray):
        return pb_utils.Tensor(name, np.ascontiguousarray(array))
    return pb_utils.Tensor.from_dlpack(name, array.detach().contiguous())


def text_to_triton(pb_utils: Any, name: str, *values: str | bytes) -> Any:
    """A BYTES tensor of these values; none gives an empty tensor."""
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return pb_utils.Tensor(name, np.array(encoded, dtype=np.object_))


def numpy_from_triton(tensor: Any) -> NDArray[Any]:
    """A numpy array over a CPU tensor; it keeps the tensor's memory alive."""
    array: NDArray[Any] = tensor.as_numpy()
    return array


def torch_from_triton(tensor: Any) -> Any:
    """A torch tensor over a Triton tensor on any device and of any type (numpy has no BF16)."""
    import torch.utils.dlpack

    return torch.utils.dlpack.from_dlpack(tensor.to_dlpack())


def unread(tensor: Any) -> Any:
    """The Triton tensor itself, for a model that only passes it on (numpy could not even look at BF16)."""
    return tensor


def rename_tensor(pb_utils: Any, name: str, tensor: Any) -> Any:
    """The same memory under another name."""
    return pb_utils.Tensor.from_dlpack(name, tensor.to_dlpack())


def bytes_from_triton(tensor: Any) -> bytes:
    """The one element of a BYTES tensor."""
    value: bytes = tensor.as_numpy().reshape(-1)[0]
    return value
