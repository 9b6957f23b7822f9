from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from wan_t2v.frames import NonFiniteFrames, decode_frames, uint8_frames


class FakeDecoder:
    """Frames whose value is their number in the clip over 100, and one cache: the frames decoded so far."""

    def __init__(self, first: bool, *, dtype: torch.dtype = torch.float32) -> None:
        self.first, self.dtype = first, dtype
        self.asked: list[Sequence[str] | None] = []

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        self.asked.append(outputs)
        so_far = 0 if self.first else int(inputs["cache_in_0"])
        count = 4 * inputs["latents"].shape[2] - (3 if self.first else 0)
        frames = torch.arange(so_far, so_far + count).view(1, 1, -1, 1, 1).expand(1, 3, -1, 2, 2) / 100
        caches = {"cache_out_0": torch.tensor(so_far + count), "cache_out_31": torch.zeros(1, 1, 2, 2, 2)}
        answer = {"frames": frames.to(self.dtype).clone(), **caches}
        return {name: answer[name] for name in outputs or answer}


@pytest.mark.parametrize("per_call", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("latent_frames", [1, 2, 5, 6])
def test_frames_come_in_order_whatever_the_chunk(latent_frames: int, per_call: int) -> None:
    first, later = FakeDecoder(True), FakeDecoder(False)
    pieces = decode_frames(torch.zeros(1, 16, latent_frames, 1, 1), first, later, latent_frames_per_call=per_call)
    frames = torch.cat(list(pieces))
    count = 4 * (latent_frames - 1) + 1
    assert frames.shape == (count, 2, 2, 3)
    assert frames[:, 0, 0, 0].tolist() == [round((n / 200 + 0.5) * 255) for n in range(count)]


def test_the_last_call_asks_for_no_cache_but_the_one_that_is_checked() -> None:
    first, later, alone = FakeDecoder(True), FakeDecoder(False), FakeDecoder(True)
    list(decode_frames(torch.zeros(1, 16, 5, 1, 1), first, later, latent_frames_per_call=2))
    list(decode_frames(torch.zeros(1, 16, 5, 1, 1), alone, later, latent_frames_per_call=5))
    last = ("frames", "cache_out_31")
    assert (first.asked, later.asked, alone.asked) == ([None], [None, last], [last])


def test_pixels_are_clamped_and_rounded() -> None:
    frames = torch.tensor([-1.5, -1.0, 0.0, 0.5, 1.0, 3.0]).view(1, 1, 1, 1, 6).expand(1, 3, 1, 1, 6)
    assert uint8_frames(frames)[0, 0, :, 0].tolist() == [0, 0, 128, 191, 255, 255]


class Overflowing(FakeDecoder):
    """One value of an output is replaced in the call with this number."""

    def __init__(self, first: bool, output: str, value: float, *, call: int = 1, dtype: torch.dtype) -> None:
        super().__init__(first, dtype=dtype)
        self.output, self.value, self.call = output, value, call

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        made = super().__call__(inputs, outputs)
        if len(self.asked) == self.call:
            made[self.output].view(-1)[-1] = self.value
        return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("first", "call", "where"),
    [
        (True, 1, "vae_decoder_first, latent frames 1 to 3 of 7"),
        (False, 1, "vae_decoder_next, latent frames 4 to 6 of 7"),
        (False, 2, "vae_decoder_next, latent frame 7 of 7"),
    ],
)
def test_frames_that_are_no_numbers_end_the_decoding_and_name_the_graph(
    first: bool, call: int, where: str, value: float, dtype: torch.dtype
) -> None:
    """As bytes they would be black or white, and an MP4 would be made of them."""
    good, broken = FakeDecoder(not first, dtype=dtype), Overflowing(first, "frames", value, call=call, dtype=dtype)
    decoders = (broken, good) if first else (good, broken)
    with pytest.raises(NonFiniteFrames, match=f"{where}: the decoder computed values that are no finite numbers"):
        list(decode_frames(torch.zeros(1, 16, 7, 1, 1), *decoders, latent_frames_per_call=3))


@pytest.mark.parametrize("first", [True, False])
def test_what_the_last_convolution_reads_is_checked_since_an_engine_may_clamp_nan_to_a_number(first: bool) -> None:
    broken = Overflowing(first, "cache_out_31", float("nan"), dtype=torch.float32)
    decoders = (broken, FakeDecoder(False)) if first else (FakeDecoder(True), broken)
    with pytest.raises(NonFiniteFrames, match="vae_decoder_first, " if first else "vae_decoder_next, "):
        list(decode_frames(torch.zeros(1, 16, 6, 1, 1), *decoders, latent_frames_per_call=3))


@pytest.mark.parametrize("count", [1, 4])
def test_so_is_what_it_reads_in_the_last_call(count: int) -> None:
    broken = Overflowing(count == 1, "cache_out_31", float("nan"), dtype=torch.float32)
    decoders = (broken, FakeDecoder(False)) if count == 1 else (FakeDecoder(True), broken)
    with pytest.raises(NonFiniteFrames):
        list(decode_frames(torch.zeros(1, 16, count, 1, 1), *decoders, latent_frames_per_call=3))


def test_frames_of_numpy_are_checked_too() -> None:
    def first(inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        return {"frames": np.full((1, 3, 1, 2, 2), np.nan, np.float32), "cache_out_31": np.zeros(1, np.float32)}

    with pytest.raises(NonFiniteFrames):
        list(decode_frames(torch.zeros(1, 16, 1, 1, 1), first, first, latent_frames_per_call=4))
