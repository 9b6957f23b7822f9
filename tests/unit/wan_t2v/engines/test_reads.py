"""An output is read before its memory can be another's. No GPU is at hand: a tensor that says it lies on one stands in."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from wan_t2v import experts, frames
from wan_t2v.engines.reads import wait_for_reads
from wan_t2v.experts import EngineExpert
from wan_t2v.frames import uint8_frames


class OnAGpu(Tensor):
    """A tensor in this machine's memory that calls itself one of the second GPU."""

    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    device = property(lambda self: torch.device("cuda:1"))  # type: ignore[assignment]


@pytest.fixture
def synchronised(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    devices: list[torch.device] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.synchronize = lambda: devices.append(device)

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    return devices


def test_what_reads_an_output_on_a_gpu_is_waited_for_there(synchronised: list[torch.device]) -> None:
    wait_for_reads(torch.ones(2).as_subclass(OnAGpu))
    assert synchronised == [torch.device("cuda:1")]


@pytest.mark.parametrize("output", [torch.ones(2), np.ones(2)])
def test_nothing_is_waited_for_on_a_cpu(output: Any, synchronised: list[torch.device]) -> None:
    wait_for_reads(output)
    assert synchronised == []


def velocity(output: Tensor) -> Tensor:
    expert = EngineExpert(lambda inputs, outputs=None: {"velocity": output})
    return expert(torch.zeros(1, 16, 1, 8, 8), 875.0, torch.zeros(1, 4, 8))


@pytest.mark.parametrize(
    ("module", "read", "shape"), [(experts, velocity, (1, 16, 1, 8, 8)), (frames, uint8_frames, (1, 3, 1, 8, 8))]
)
def test_velocities_and_frames_are_read_before_they_are_dropped(
    module: Any, read: Callable[[Tensor], Tensor], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[Tensor] = []
    monkeypatch.setattr(module, "wait_for_reads", waited.append)
    output = torch.zeros(shape)
    read(output)
    assert len(waited) == 1 and waited[0] is output


def test_a_velocity_in_fp32_is_a_copy_where_it_lies_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts, "wait_for_reads", lambda output: None)
    output = torch.ones(1, 16, 1, 8, 8)
    monkeypatch.setattr(torch, "as_tensor", lambda array, device: cast(Tensor, array.as_subclass(OnAGpu)))
    assert velocity(output).data_ptr() != output.data_ptr()
