"""Latents to frames: the causal VAE decoder, a few latent frames at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from wan_t2v.contract import cache_input_of
from wan_t2v.engines.engine import Array, Engine
from wan_t2v.engines.reads import wait_for_reads


def decode_frames(
    latents: Tensor, decoder_first: Engine, decoder_next: Engine, *, latent_frames_per_call: int
) -> Iterator[Tensor]:
    """Yield the clip's frames in order, in pieces (T, height, width, 3) uint8.

    `latents` (1, C, F, h, w) are on the VAE's own scale. The first latent frame gives one frame, each later one four.
    Each call hands the decoder's causal caches to the next one; the last call does not request them.
    """
    count = latents.shape[2]
    state = decoder_first({"latents": latents[:, :, :1]}, None if count > 1 else ["frames"])
    yield uint8_frames(state.pop("frames"))
    for start in range(1, count, latent_frames_per_call):
        chunk = latents[:, :, start : start + latent_frames_per_call].contiguous()
        last = start + latent_frames_per_call >= count
        state = decoder_next({"latents": chunk, **_as_inputs(state)}, ["frames"] if last else None)
        yield uint8_frames(state.pop("frames"))


def uint8_frames(frames: Array) -> Tensor:
    """Convert frames (1, 3, T, H, W) in [-1, 1] to (T, H, W, 3) uint8, rounded to the nearest."""
    # Permuting bytes instead of floats moves a quarter of the memory.
    pixels = (torch.as_tensor(frames)[0].float() / 2).add_(0.5).clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    wait_for_reads(frames)
    return pixels.permute(1, 2, 3, 0).contiguous()


def _as_inputs(caches: dict[str, Array]) -> dict[str, Array]:
    return {cache_input_of(name): cache for name, cache in caches.items()}
