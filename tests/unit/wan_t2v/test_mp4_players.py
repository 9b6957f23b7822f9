"""What players read from a file: PyAV, OpenCV's own FFmpeg and, where it is installed, ffprobe must agree."""

import io
import json
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from wan_t2v.cancellation import Cancelled
from wan_t2v.mp4 import mp4_from_frames

CLIPS = [
    *((count, fps, 48, 80) for fps in (1, 2, 16, 120) for count in (1, 5, 81)),
    (5, 7, 16, 16),  # the smallest size, and a rate that divides no round number
    (5, 30, 112, 144),
]


def numbered_frames(count: int, height: int, width: int) -> np.ndarray:
    """Frames whose brightness is their number."""
    levels = np.linspace(0, 255, count).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def boxes(video: bytes) -> list[tuple[str, int]]:
    """The names and sizes of the boxes at a file's top."""
    found, at = [], 0
    while at < len(video):
        size = int.from_bytes(video[at : at + 4], "big")
        found.append((video[at + 4 : at + 8].decode("latin1"), size))
        at += size
    return found


@pytest.mark.parametrize(("count", "fps", "height", "width"), CLIPS)
def test_pyav_reads_the_exact_times(count: int, fps: int, height: int, width: int) -> None:
    frames = numbered_frames(count, height, width)
    with av.open(io.BytesIO(mp4_from_frames(frames, fps=fps))) as container:
        stream = container.streams.video[0]
        assert (stream.start_time, stream.frames, stream.average_rate) == (0, count, fps)
        assert stream.duration * stream.time_base == Fraction(count, fps)
        assert container.duration == round(1e6 * count / fps)  # the file's header, in microseconds
        decoded = list(container.decode(video=0))
    assert [frame.pts * frame.time_base for frame in decoded] == [Fraction(index, fps) for index in range(count)]
    means = [frame.to_ndarray(format="rgb24").mean() for frame in decoded]
    assert np.abs(np.array(means) - frames[:, 0, 0, 0]).max() < 3


@pytest.mark.parametrize(("count", "fps", "height", "width"), CLIPS)
def test_opencv_reads_the_same(count: int, fps: int, height: int, width: int, tmp_path: Path) -> None:
    file = tmp_path / "clip.mp4"
    frames = numbered_frames(count, height, width)
    file.write_bytes(mp4_from_frames(frames, fps=fps))
    capture = cv2.VideoCapture(str(file))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == count
    assert capture.get(cv2.CAP_PROP_FPS) == fps
    for index, frame in enumerate(frames):
        was_read, picture = capture.read()
        assert was_read
        assert capture.get(cv2.CAP_PROP_POS_MSEC) == pytest.approx(1e3 * index / fps)
        assert abs(picture.mean() - frame.mean()) < 3
    assert not capture.read()[0]


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")
@pytest.mark.parametrize(("count", "fps", "height", "width"), CLIPS)
def test_ffprobe_reads_the_same(count: int, fps: int, height: int, width: int, tmp_path: Path) -> None:
    file = tmp_path / "clip.mp4"
    file.write_bytes(mp4_from_frames(numbered_frames(count, height, width), fps=fps))
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_streams", "-show_format", str(file)]
    probed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    stream = probed["streams"][0]
    assert (stream["nb_frames"], stream["avg_frame_rate"]) == (str(count), f"{fps}/1")
    assert float(stream["start_time"]) == float(probed["format"]["start_time"]) == 0
    assert stream["duration"] == probed["format"]["duration"] == f"{count / fps:.6f}"


@pytest.mark.parametrize("side", [32, 1280])
def test_the_index_stands_before_the_frames_and_fits_its_place_for_any_content(side: int) -> None:
    """Noise: frames of 32 pixels are all alike to the index, those of 1280 take more than a megabyte each."""
    count = 200 if side == 32 else 3
    noise = np.random.default_rng(0).integers(0, 255, (count, side, side, 3), dtype=np.uint8)
    names = [name for name, _ in boxes(mp4_from_frames(noise, fps=16))]
    assert [name for name in names if name != "free"] == ["ftyp", "moov", "mdat"]


def test_the_place_kept_for_the_index_is_small() -> None:
    kept = sum(size for name, size in boxes(mp4_from_frames(numbered_frames(81, 32, 32), fps=16)) if name == "free")
    assert kept < 4096


def test_no_time_of_day_is_in_the_file() -> None:
    video = mp4_from_frames(numbered_frames(5, 32, 32), fps=16)
    for box in (b"mvhd", b"tkhd", b"mdhd"):
        created_and_changed = video.index(box) + 8
        assert video[created_and_changed : created_and_changed + 8] == bytes(8), box


@pytest.mark.parametrize("asked_before", [0, 1, 4])
def test_a_caller_who_leaves_ends_the_encoding(asked_before: int) -> None:
    answers = iter([False] * asked_before + [True])
    with pytest.raises(Cancelled, match=f"after {asked_before} encoded frames"):
        mp4_from_frames(numbered_frames(5, 32, 32), fps=16, is_cancelled=lambda: next(answers))
