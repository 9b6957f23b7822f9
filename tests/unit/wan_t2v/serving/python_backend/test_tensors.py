"""What goes to Triton: an empty tensor never names a GPU."""

import numpy as np
import pytest
import torch

from tests.fakes.pb_utils import FakePbUtils
from wan_t2v.serving.python_backend.tensors import byte_size, text_to_triton, to_triton


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("shape", [(0, 16, 5, 8, 8), (1, 0)])
def test_an_empty_tensor_is_made_on_the_cpu_wherever_it_comes_from(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """The device `meta` stands for a GPU: it is not the CPU, and nothing can be read from it."""
    elsewhere = torch.empty(shape, dtype=dtype, device="meta")
    tensor = to_triton(FakePbUtils(), "latents", elsewhere)
    held = torch.as_tensor(tensor._array)
    assert (held.device.type, held.dtype, tuple(held.shape)) == ("cpu", dtype, shape)


def test_the_rows_of_no_request_are_made_on_the_cpu_too() -> None:
    """As the endpoints do with latents that nobody asked for."""
    latents = torch.empty(1, 16, 5, 8, 8, device="meta")
    assert to_triton(FakePbUtils(), "latents", latents[:0]).as_numpy().shape == (0, 16, 5, 8, 8)


def test_what_holds_something_stays_where_it_is() -> None:
    elsewhere = torch.empty(2, 3, device="meta")
    assert to_triton(FakePbUtils(), "x", elsewhere)._array.device.type == "meta"
    assert to_triton(FakePbUtils(), "x", np.ones(2)).as_numpy().tolist() == [1, 1]


def test_a_size_in_bytes_counts_elements_and_the_lengths_of_texts() -> None:
    assert byte_size(to_triton(FakePbUtils(), "frames", np.ones((2, 3), np.float32))) == 24
    assert byte_size(text_to_triton(FakePbUtils(), "video", b"four", "ü")) == 6
    assert byte_size(text_to_triton(FakePbUtils(), "video")) == 0
