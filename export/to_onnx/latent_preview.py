"""Fit the linear map from latents to small pictures: least squares on what the checkpoint's VAE makes of colours."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from export.atomic import write_atomically
from export.checkpoint.config_file import read_text
from export.checkpoint.folder import Checkpoint
from wan_t2v.latents import diffusion_from_vae
from wan_t2v.preview import PREVIEW_FILE, PreviewMap

PICTURES = 16  # of each kind
SIDE = 64  # pixels
FRAMES = 9  # a later latent frame holds four frames, unlike the first: both are fitted
PATCHES = (2, 4, 8)  # a picture has so many random colours a side


def write_preview(checkpoint: Checkpoint, folder: Path, *, again: bool) -> None:
    """Put the map into an export `folder`: the checkpoint's own if it brings one (wan-mini does), else a fitted one.

    A map that is there is kept, unless it is wanted `again`.
    """
    own, target = checkpoint.folder / PREVIEW_FILE, folder / PREVIEW_FILE
    if target.exists() and not again and not own.exists():
        return
    if own.exists():
        text = read_text(own)
    else:
        vae = cast(AutoencoderKLWan, checkpoint.module("vae"))
        text = fit_preview(vae).to_json()
    with write_atomically(target) as partial:
        partial.write_text(text, encoding="utf-8")


@torch.inference_mode()
def fit_preview(vae: AutoencoderKLWan, clips: Tensor | None = None) -> PreviewMap:
    """The map that gives, from the normalised latents of `clips`, their own small pictures best.

    `clips` (N, 3, T, H, W) are in [-1, 1]; without any, resting random pictures are taken, which suits a VAE that was
    trained on everything and not one that knows a small world only.
    """
    samples = [_samples(vae, clip[None]) for clip in (_random_clips() if clips is None else clips)]
    latents, colours = (np.concatenate(part) for part in zip(*samples, strict=True))
    with_bias = np.concatenate([latents, np.ones_like(latents[:, :1])], axis=1)
    solution, *_ = np.linalg.lstsq(with_bias, colours, rcond=None)
    return PreviewMap(solution[:-1].astype(float).tolist(), solution[-1].astype(float).tolist())


def _samples(vae: AutoencoderKLWan, clip: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Latents (N, C) of one clip and the colours (N, 3) in [0, 1] that each stands for.

    The first latent frame holds one frame, each later one several: of these the last is its picture.
    """
    latents = diffusion_from_vae(vae.encode(clip).latent_dist.mode(), vae.config.latents_mean, vae.config.latents_std)
    pictures = (clip[0, :, :: 2 ** sum(vae.config.temperal_downsample)].transpose(0, 1) + 1.0) / 2.0  # (n + 1, 3, H, W)
    small = functional.interpolate(pictures, size=latents.shape[-2:], mode="area")
    return _rows(latents[0].transpose(0, 1)), _rows(small)


def _rows(planes: Tensor) -> NDArray[np.float32]:
    """(N, C, h, w) to (N h w, C)."""
    rows: NDArray[np.float32] = planes.permute(0, 2, 3, 1).flatten(0, 2).numpy()
    return rows


def _random_clips() -> Tensor:
    pictures = torch.cat([_pictures(patches, mode, seed=0) for patches in PATCHES for mode in ("nearest", "bicubic")])
    return (2.0 * pictures - 1.0)[:, :, None].expand(-1, -1, FRAMES, -1, -1)


def _pictures(patches: int, mode: str, *, seed: int) -> Tensor:
    """(PICTURES, 3, SIDE, SIDE) in [0, 1]: patches of random colours, with hard or with soft edges."""
    random = torch.Generator().manual_seed(1000 * seed + patches)
    colours = torch.rand(PICTURES, 3, patches, patches, generator=random)
    return functional.interpolate(colours, size=(SIDE, SIDE), mode=mode).clamp(0.0, 1.0)
