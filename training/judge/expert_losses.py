"""Losses of each expert on both sides of the boundary, on held-out clips."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from training.learn import flow_matching
from training.learn.expert_stage import PARTS
from training.learn.sampling import Modules
from training.learn.text_embeddings import text_embeddings
from training.learn.vae_stage import vae_input
from training.learn.whole_clip import encode_whole
from training.world.clips import numbered_clip
from training.world.render import Frames
from wan_t2v.experts import HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT
from wan_t2v.latents import diffusion_from_vae
from wan_t2v.shapes import VideoShape

LEVELS = 8  # noise levels per band at which the errors are measured


@dataclass(frozen=True)
class ExpertLosses:
    """Mean squared velocity errors on one side of the boundary.

    Attributes:
        band: the expert that serves this side.
        high_noise_expert, low_noise_expert: mean error of each expert, on the same noise.
        own_better_on: number of clips on which the band's own expert has the smaller error.
    """

    band: str
    high_noise_expert: float
    low_noise_expert: float
    own_better_on: int
    clips: int


@torch.no_grad()
def expert_losses(modules: Modules, *, video: VideoShape, seed: int, clips: int) -> Iterator[ExpertLosses]:
    """Yield the losses of both experts in each expert's band."""
    held_out = [numbered_clip(seed, index, video=video, split="held_out") for index in range(clips)]
    clean = torch.cat([_latents(modules, clip.frames) for clip in held_out])
    texts = text_embeddings(modules.text_encoder, modules.tokenizer, captions=[clip.caption for clip in held_out])
    for band in (HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT):
        errors = _errors(modules, clean, texts, band=band, seed=seed)
        other = LOW_NOISE_EXPERT if band == HIGH_NOISE_EXPERT else HIGH_NOISE_EXPERT
        better = int((errors[band] < errors[other]).sum())
        yield ExpertLosses(band, **{name: float(error.mean()) for name, error in errors.items()},
                       own_better_on=better, clips=clips)  # fmt: skip


def _latents(modules: Modules, frames: Frames) -> Tensor:
    config = modules.vae.config
    scaled = encode_whole(modules.vae, vae_input(frames[None]).to(modules.vae.device))[0]
    return diffusion_from_vae(scaled, config.latents_mean, config.latents_std)


def _errors(modules: Modules, clean: Tensor, texts: Tensor, *, band: str, seed: int) -> dict[str, Tensor]:
    """Return each expert's mean error per clip over the band's noise levels. Both get the same noise."""
    lowest, highest, _ = PARTS[band]
    random = torch.Generator().manual_seed(seed)
    levels = flow_matching.draw_sigmas(LEVELS, lowest=lowest, highest=highest, random=random)
    noises = [torch.randn(clean.shape, generator=random).to(clean.device) for _ in levels]
    errors = {}
    for name in (HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT):
        expert, squared_errors = getattr(modules, name), []
        for level, noise in zip(levels, noises, strict=True):
            sigmas = level.expand(len(clean)).to(clean.device)
            noisy = flow_matching.add_noise(clean, noise, sigmas)
            velocity = expert(noisy, sigmas * flow_matching.TRAIN_TIMESTEPS, texts, return_dict=False)[0]
            squared_errors.append((velocity - flow_matching.target_velocity(clean, noise)).square().flatten(1).mean(1))
        errors[name] = torch.stack(squared_errors).mean(0)
    return errors
