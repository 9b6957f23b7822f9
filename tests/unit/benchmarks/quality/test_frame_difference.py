"""PSNR and SSIM of clips."""

import numpy as np
import pytest

from benchmarks.quality.frame_difference import FrameDifference

CLIP = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)


def test_a_clip_is_like_itself() -> None:
    assert FrameDifference.between(CLIP, CLIP) == FrameDifference(100.0, 1.0)


def test_one_grey_level_more_is_known_in_both() -> None:
    """An error of 1 everywhere: 20 log10(255) = 48.13 dB."""
    difference = FrameDifference.between(CLIP, CLIP + np.uint8(1))
    assert difference.psnr_db == pytest.approx(48.13, abs=0.01) and 0.999 < difference.ssim < 1.0


def test_the_farther_the_lower_in_both() -> None:
    noise = np.random.default_rng(1).normal(0, 1, CLIP.shape)
    near, far = (
        FrameDifference.between(CLIP, np.clip(CLIP + noise * size, 0, 255).astype(np.uint8)) for size in (5, 50)
    )
    assert near.psnr_db > far.psnr_db and near.ssim > far.ssim


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="one video has frames of"):
        FrameDifference.between(CLIP, CLIP[:2])
