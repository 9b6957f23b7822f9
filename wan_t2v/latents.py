"""Starting noise, and the conversion between the denoiser's latent space and the VAE's."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wan_t2v.shapes import LatentShape


def starting_noise(shape: LatentShape, seed: int) -> Tensor:
    """Draw Gaussian noise (1, channels, frames, height, width) float32, on the CPU: equal on every machine."""
    return torch.randn(shape.tensor_shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32)


def vae_from_diffusion(latents: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Convert normalised latents (B, C, F, H, W) to the VAE's own scale: `latents * std + mean` per channel."""
    return latents * _by_channel(std, latents) + _by_channel(mean, latents)


def diffusion_from_vae(latents: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The inverse of `vae_from_diffusion`."""
    return (latents - _by_channel(mean, latents)) / _by_channel(std, latents)


def _by_channel(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1, 1)
