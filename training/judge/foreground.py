"""Foreground of a clip: the pixels of its shape, found without a model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.world.motion import Track
from training.world.render import Frames, Plane

MIN_CONTRAST = 40.0  # sRGB distance between shape and background, at most 441; below it, no shape is visible
BORDER_PX = 2


@dataclass(frozen=True)
class Foreground:
    """Foreground shape of a clip.

    Attributes:
        cover: share of each pixel that it covers, (T, H, W) in [0, 1].
        colour: sRGB colour, (3,).
        x, y: centre per frame, in a Scene's coordinates: -1 to 1 across the shorter side, y down.
        size: radius per frame of the circle with the same area, in the same unit.
    """

    cover: Plane
    colour: NDArray[np.float64]
    x: Track
    y: Track
    size: Track


def foreground_of(frames: Frames) -> Foreground | None:
    """Find the shape that differs from the background. None if contrast is low, or a frame has almost no foreground."""
    pixels = frames.astype(np.float32)
    background = np.median(_border(pixels), axis=0)
    contrast = np.linalg.norm(pixels - background, axis=-1)  # (T, H, W)
    peak = np.percentile(contrast.reshape(len(frames), -1), 99.0, axis=1)
    if np.median(peak) < MIN_CONTRAST:
        return None
    colour = np.median(pixels[contrast > 0.75 * np.median(peak)], axis=0)
    span = colour - background
    cover = np.clip((pixels - background) @ span / (span @ span), 0.0, 1.0).astype(np.float32)
    return _measure(np.where(cover > 0.25, cover, 0.0).astype(np.float32), colour)  # far noise shifts the centre


def _measure(cover: Plane, colour: NDArray[np.float64]) -> Foreground | None:
    _, height, width = cover.shape
    half_side = min(height, width) / 2.0
    area = cover.sum(axis=(1, 2), dtype=np.float64)
    if area.min() < 4.0:
        return None
    columns = (np.arange(width) + 0.5 - width / 2.0) / half_side
    rows = (np.arange(height) + 0.5 - height / 2.0) / half_side
    x = cover.sum(axis=1) @ columns / area
    y = cover.sum(axis=2) @ rows / area
    return Foreground(cover, colour, x=x, y=y, size=np.sqrt(area / np.pi) / half_side)


def _border(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the border pixels of all frames, (N, 3)."""
    inside = np.zeros(pixels.shape[1:3], dtype=bool)
    inside[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    return pixels[:, ~inside].reshape(-1, 3)
