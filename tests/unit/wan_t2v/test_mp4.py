import io
import os
import subprocess
import sys

import av
import numpy as np
import pytest

from wan_t2v.mp4 import mp4_from_frames


def decoded(video: bytes) -> np.ndarray:
    with av.open(io.BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def moving_bar(count: int) -> np.ndarray:
    frames = np.zeros((count, 48, 64, 3), dtype=np.uint8)
    for index in range(count):
        frames[index, :, 2 * index : 2 * index + 16] = (230, 40, 30)
    return frames


@pytest.mark.parametrize("count", [1, 17])
def test_what_goes_in_comes_out(count: int) -> None:
    frames = moving_bar(count)
    back = decoded(mp4_from_frames(frames, fps=16))
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 3  # half the colour resolution, little else


def test_the_stream_is_what_players_expect() -> None:
    with av.open(io.BytesIO(mp4_from_frames(moving_bar(5), fps=24))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 24
        tags = (stream.codec_context.color_primaries, stream.codec_context.color_trc, stream.codec_context.colorspace)
        assert tags == (1, 1, 1)  # BT.709


def test_colours_survive_because_matrix_and_tag_agree() -> None:
    """A matrix of BT.601 under a tag of BT.709 shifts this red by about ten levels."""
    frames = np.full((3, 32, 32, 3), (200, 30, 40), dtype=np.uint8)
    assert np.abs(decoded(mp4_from_frames(frames, fps=16))[1, 16, 16].astype(int) - (200, 30, 40)).max() <= 3


@pytest.mark.parametrize("fill", ["1", "85", "165", "255"])
def test_the_same_frames_give_the_same_bytes_whatever_memory_held_before(fill: str) -> None:
    """glibc fills fresh memory with a pattern: an encoder that reads what it never wrote is found out.

    x264 with its macroblock tree (in presets from veryfast on) gave other files for these sizes.
    """
    code = (
        "import hashlib, numpy as np\nfrom wan_t2v.mp4 import mp4_from_frames\n"
        "for height, width, count in ((80, 80, 9), (64, 96, 9), (32, 48, 5), (128, 128, 17)):\n"
        "    noise = np.random.default_rng(0).integers(0, 255, (count, height // 8, width // 8, 3), dtype=np.uint8)\n"
        "    frames = np.repeat(np.repeat(noise, 8, 1), 8, 2)\n"
        "    print(hashlib.sha256(mp4_from_frames(frames, fps=16)).hexdigest())\n"
    )

    def digests(pattern: str) -> str:
        environment = {**os.environ, "MALLOC_PERTURB_": pattern}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert digests(fill) == digests("0")
