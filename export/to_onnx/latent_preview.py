"""Least-squares fit of the preview map, which is linear from latents to small pictures, with the checkpoint's VAE."""

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

PICTURES = 16  # per number of patches and per interpolation mode
SIDE = 64  # pixels
FRAMES = 9  # three latent frames: the first holds one frame, later ones hold four, and the fit needs both kinds
PATCHES = (2, 4, 8)  # random colours per side of a picture


def write_preview(checkpoint: Checkpoint, folder: Path, *, again: bool) -> None:
    """Write the preview map into an export `folder`: the checkpoint's own if it has one, as wan-mini does, else a fit.

    A fitted map in `folder` is kept, unless `again` or if it is damaged.
    """
    own, target = checkpoint.folder / PREVIEW_FILE, folder / PREVIEW_FILE
    if not again and not own.exists() and _is_a_map(target):
        return
    if own.exists():
        text = read_text(own)
    else:
        vae = cast(AutoencoderKLWan, checkpoint.module("vae"))
        text = fit_preview(vae).to_json()
    with write_atomically(target) as partial:
        partial.write_text(text, encoding="utf-8")


def _is_a_map(path: Path) -> bool:
    try:
        PreviewMap.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


@torch.inference_mode()
def fit_preview(vae: AutoencoderKLWan, clips: Tensor | None = None) -> PreviewMap:
    """Fit the map from normalised latents of `clips` to the clips' downscaled frames.

    `clips` (N, 3, T, H, W) are in [-1, 1]. Without clips, still random pictures are used. They suit a VAE trained on
    general videos, but not one trained on a narrow set such as wan-mini's.
    """
    samples = [_samples(vae, clip[None]) for clip in (_random_clips() if clips is None else clips)]
    latents, colours = (np.concatenate(part) for part in zip(*samples, strict=True))
    with_bias = np.concatenate([latents, np.ones_like(latents[:, :1])], axis=1)
    solution, *_ = np.linalg.lstsq(with_bias, colours, rcond=None)
    return PreviewMap(solution[:-1].astype(float).tolist(), solution[-1].astype(float).tolist())


def _samples(vae: AutoencoderKLWan, clip: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the latents (N, C) of one clip, and the colour (N, 3) in [0, 1] at each.

    The first latent frame holds one frame, each later one several. The last of these is the one to predict.
    """
    latents = diffusion_from_vae(vae.encode(clip).latent_dist.mode(), vae.config.latents_mean, vae.config.latents_std)
    pictures = (clip[0, :, :: 2 ** sum(vae.config.temperal_downsample)].transpose(0, 1) + 1.0) / 2.0  # (n + 1, 3, H, W)
    small = functional.interpolate(pictures, size=latents.shape[-2:], mode="area")
    return _rows(latents[0].transpose(0, 1)), _rows(small)


def _rows(planes: Tensor) -> NDArray[np.float32]:
    """Reshape (N, C, h, w) to (N h w, C)."""
    rows: NDArray[np.float32] = planes.permute(0, 2, 3, 1).flatten(0, 2).numpy()
    return rows


def _random_clips() -> Tensor:
    pictures = torch.cat([_pictures(patches, mode, seed=0) for patches in PATCHES for mode in ("nearest", "bicubic")])
    return (2.0 * pictures - 1.0)[:, :, None].expand(-1, -1, FRAMES, -1, -1)


def _pictures(patches: int, mode: str, *, seed: int) -> Tensor:
    """Make pictures (PICTURES, 3, SIDE, SIDE) in [0, 1] from patches of random colours, with hard or soft edges."""
    random = torch.Generator().manual_seed(1000 * seed + patches)
    colours = torch.rand(PICTURES, 3, patches, patches, generator=random)
    return functional.interpolate(colours, size=(SIDE, SIDE), mode=mode).clamp(0.0, 1.0)
