from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from wan_t2v.frames import decode_frames, uint8_frames


class FakeDecoder:
    """Frames whose value is their number in the clip over 100, and one cache: the frames decoded so far."""

    def __init__(self, first: bool) -> None:
        self.first = first
        self.asked: list[Sequence[str] | None] = []

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        self.asked.append(outputs)
        so_far = 0 if self.first else int(inputs["cache_in_0"])
        count = 1 if self.first else 4 * inputs["latents"].shape[2]
        frames = torch.arange(so_far, so_far + count).view(1, 1, -1, 1, 1).expand(1, 3, -1, 2, 2) / 100
        return {"frames": frames, **({} if outputs else {"cache_out_0": torch.tensor(so_far + count)})}


@pytest.mark.parametrize("per_call", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("latent_frames", [1, 2, 5, 6])
def test_frames_come_in_order_whatever_the_chunk(latent_frames: int, per_call: int) -> None:
    first, later = FakeDecoder(True), FakeDecoder(False)
    pieces = decode_frames(torch.zeros(1, 16, latent_frames, 1, 1), first, later, latent_frames_per_call=per_call)
    frames = torch.cat(list(pieces))
    count = 4 * (latent_frames - 1) + 1
    assert frames.shape == (count, 2, 2, 3)
    assert frames[:, 0, 0, 0].tolist() == [round((n / 200 + 0.5) * 255) for n in range(count)]


def test_the_last_call_asks_for_no_caches() -> None:
    first, later = FakeDecoder(True), FakeDecoder(False)
    list(decode_frames(torch.zeros(1, 16, 5, 1, 1), first, later, latent_frames_per_call=2))
    assert (first.asked, later.asked) == ([None], [None, ["frames"]])


def test_pixels_are_clamped_and_rounded() -> None:
    frames = torch.tensor([-1.5, -1.0, 0.0, 0.5, 1.0, 3.0]).view(1, 1, 1, 1, 6).expand(1, 3, 1, 1, 6)
    assert uint8_frames(frames)[0, 0, :, 0].tolist() == [0, 0, 128, 191, 255, 255]
