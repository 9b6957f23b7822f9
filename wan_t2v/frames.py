"""Latents to frames: the causal VAE decoder, a few latent frames at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from wan_t2v.contract import CACHE_OUT, VAE_DECODERS, cache_input_of, cache_names
from wan_t2v.engines.engine import Array, Engine
from wan_t2v.engines.reads import wait_for_reads

_FIRST, _NEXT = VAE_DECODERS
_LAST_CACHE = cache_names(CACHE_OUT)[-1]  # of the last convolution, so what it reads
_LAST_OUTPUTS = ("frames", _LAST_CACHE)


class NonFiniteFrames(ArithmeticError):
    """The VAE decoder computed NaN or infinite values, so the frames would be black. The message names the graph."""


def decode_frames(
    latents: Tensor, decoder_first: Engine, decoder_next: Engine, *, latent_frames_per_call: int
) -> Iterator[Tensor]:
    """Yield the clip's frames in order, in pieces (T, height, width, 3) uint8.

    `latents` (1, C, F, h, w) are on the VAE's own scale, in the type that the decoders take. The first latent frame
    gives one frame, each later one four. Each call hands the decoder's causal caches to the next one; the last call
    requests one of them, to check it. Raises NonFiniteFrames.
    """
    count = latents.shape[2]
    state: dict[str, Array] = {}
    for start in range(0, count, latent_frames_per_call):
        decoder, name = (decoder_next, _NEXT) if start else (decoder_first, _FIRST)
        chunk = latents[:, :, start : start + latent_frames_per_call].contiguous()
        last = start + latent_frames_per_call >= count
        state = decoder({"latents": chunk, **_as_inputs(state)}, _LAST_OUTPUTS if last else None)
        yield _pop_frames(state, f"{name}, {_numbers(start, start + chunk.shape[2])} of {count}")


def uint8_frames(frames: Array) -> Tensor:
    """Convert frames (1, 3, T, H, W) in [-1, 1] to (T, H, W, 3) uint8, rounded to the nearest."""
    # Permuting bytes instead of floats moves a quarter of the memory.
    pixels = (torch.as_tensor(frames)[0].float() / 2).add_(0.5).clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    wait_for_reads(frames)
    return pixels.permute(1, 2, 3, 0).contiguous()


def _pop_frames(outputs: dict[str, Array], where: str) -> Tensor:
    """Take the frames out of a call's outputs, as uint8. Raises NonFiniteFrames.

    The graphs end by clamping, which turns NaN into -1 in some engines, such as OpenVINO. So what the last convolution
    reads is checked too.
    """
    frames = outputs.pop("frames")
    ends = [_extremes(values) for values in (frames, outputs[_LAST_CACHE])]
    pixels = uint8_frames(frames)  # waits for what was enqueued so far, so that the check below waits for nothing
    if not all(bool(torch.isfinite(pair).all()) for pair in ends):
        raise NonFiniteFrames(
            f"{where}: the decoder computed values that are no finite numbers. Overflow in its precision does that: "
            "compare it with the checkpoint by `make parity`."
        )
    return pixels


def _extremes(values: Array) -> Tensor:
    """Return minimum and maximum, which are NaN if any value is: one pass over the values, and no copy of them."""
    return torch.stack(torch.aminmax(torch.as_tensor(values)))


def _numbers(start: int, end: int) -> str:
    return f"latent frame {end}" if end == start + 1 else f"latent frames {start + 1} to {end}"


def _as_inputs(caches: dict[str, Array]) -> dict[str, Array]:
    return {cache_input_of(name): cache for name, cache in caches.items()}
