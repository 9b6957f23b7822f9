"""Flow matching as in Wan: noise levels with serving's distribution, and the velocity to learn."""

import torch
from torch import Tensor

from training.learn.served_defaults import served_default

TRAIN_TIMESTEPS = 1000
FLOW_SHIFT = served_default("flow_shift")
LOWEST_TIME = 0.5 / served_default("num_inference_steps")  # half a step below the last time at which serving calls


def shift(time: Tensor) -> Tensor:
    """Convert a time (0 clean, 1 noise) to sigma with serving's flow shift."""
    return FLOW_SHIFT * time / (1.0 + (FLOW_SHIFT - 1.0) * time)


def unshift(sigma: float) -> float:
    """Convert a sigma to the time at which serving reaches it: the inverse of `shift`."""
    return sigma / (FLOW_SHIFT - (FLOW_SHIFT - 1.0) * sigma)


def draw_sigmas(count: int, *, lowest: float, highest: float, random: torch.Generator) -> Tensor:
    """Draw `count` sigmas from unshifted times in [lowest, highest), one from each of `count` equal intervals."""
    parts = (torch.arange(count) + torch.rand(count, generator=random)) / count
    return shift(lowest + (highest - lowest) * parts)


def add_noise(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Mix `(1 - sigma) clean + sigma noise`, one sigma per clip (B,)."""
    share = sigmas.view(-1, 1, 1, 1, 1)
    return (1.0 - share) * clean + share * noise


def target_velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """Return the velocity that an expert must predict, `noise - clean`."""
    return noise - clean
