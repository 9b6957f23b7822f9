"""Difference between two clips of the same size: PSNR and SSIM."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from benchmarks.baselines.psnr import frames_psnr_db

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class FrameDifference:
    """PSNR in dB over all frames (100 for equal clips), and SSIM as the mean over frames (1 for equal clips)."""

    psnr_db: float
    ssim: float

    @classmethod
    def between(cls, frames: Frames, others: Frames) -> "FrameDifference":
        """Compare two clips (T, H, W, 3). Raises ValueError for another size."""
        return cls(frames_psnr_db(frames, others), frames_ssim(frames, others))


def frames_ssim(frames: Frames, others: Frames) -> float:
    """Compute the frames' mean structural similarity (Wang et al. 2004, scikit-image's window of 7 pixels).

    Clips are (T, H, W, 3). Raises ValueError for clips of different lengths or sizes.
    """
    each = [
        structural_similarity(frame, other, channel_axis=2, data_range=255)  # type: ignore[no-untyped-call]
        for frame, other in zip(frames, others, strict=True)
    ]
    return float(np.mean(each))
