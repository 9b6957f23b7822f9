"""PSNR of two MP4s after decoding."""

import math

import numpy as np
from numpy.typing import NDArray

from training.judge.through_server import frames_from_mp4


def psnr_db(video: bytes, other: bytes) -> float:
    """Compute the peak signal-to-noise ratio in dB over all frames, at most 100, the value for equal videos.

    Raises ValueError for videos of different sizes.
    """
    return frames_psnr_db(frames_from_mp4(video), frames_from_mp4(other))


def frames_psnr_db(frames: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """Compute the same for decoded clips (T, H, W, 3). Raises ValueError for clips of different sizes."""
    if frames.shape != others.shape:
        raise ValueError(f"one video has frames of {frames.shape}, the other of {others.shape}")
    error = float(np.mean((frames.astype(np.float64) - others) ** 2))
    return 100.0 if error == 0 else min(100.0, 10 * math.log10(255**2 / error))
