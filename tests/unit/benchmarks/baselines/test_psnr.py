import numpy as np
import pytest

from benchmarks.baselines.psnr import psnr_db
from training.judge.through_server import frames_from_mp4
from wan_t2v.mp4 import mp4_from_frames

FRAMES = np.random.default_rng(1).integers(60, 200, (5, 32, 48, 3), dtype=np.uint8)
FRAMES[...] = FRAMES[:, :1, :1]  # plain colours, which H.264 keeps


def test_equal_videos_are_equal_and_a_rounding_is_not_another_video() -> None:
    video = mp4_from_frames(FRAMES, fps=16)
    assert frames_from_mp4(video).shape == FRAMES.shape
    assert psnr_db(video, video) == 100.0
    rounded = FRAMES.copy()
    rounded[:, ::7, ::5] += 1
    assert psnr_db(mp4_from_frames(rounded, fps=16), video) > 40.0
    assert psnr_db(mp4_from_frames(255 - FRAMES, fps=16), video) < 40.0


def test_videos_of_two_sizes_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"\(5, 32, 48, 3\).*\(3, 32, 48, 3\)"):
        psnr_db(mp4_from_frames(FRAMES, fps=16), mp4_from_frames(FRAMES[:3], fps=16))
