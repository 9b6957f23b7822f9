"""PSNR of two MP4s after decoding."""

import io
import math

import av
import numpy as np
from numpy.typing import NDArray


def psnr_db(video: bytes, other: bytes) -> float:
    """Compute the peak signal-to-noise ratio in dB over all frames, at most 100, the value for equal videos.

    Raises ValueError for videos of different sizes.
    """
    return frames_psnr_db(decode_frames(video), decode_frames(other))


def frames_psnr_db(frames: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """Compute the same for decoded clips (T, H, W, 3). Raises ValueError for clips of different sizes."""
    if frames.shape != others.shape:
        raise ValueError(f"one video has frames of {frames.shape}, the other of {others.shape}")
    error = float(np.mean((frames.astype(np.float64) - others) ** 2))
    return 100.0 if error == 0 else min(100.0, 10 * math.log10(255**2 / error))


def decode_frames(video: bytes) -> NDArray[np.uint8]:
    """Decode a video to RGB frames (T, H, W, 3)."""
    with av.open(io.BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
