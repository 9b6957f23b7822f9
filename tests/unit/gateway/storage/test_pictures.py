"""The pictures of a video, and what making them costs."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from wan_t2v_gateway.storage.pictures import thumbnail_and_sheet

SIDE = 320
PEAK = """
import sys
from pathlib import Path
from wan_t2v_gateway.storage.pictures import thumbnail_and_sheet
for name in sys.argv[1:]:
    thumbnail_and_sheet(Path(name).read_bytes())
    print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def video_of(frames: int, *, side: int = SIDE) -> bytes:
    """A video with a white bar that is 2n + 16 pixels wide in the n-th frame."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=16, options={"qp": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = side, side, "yuv420p", 1
        for number in range(frames):
            drawn = np.zeros((side, side, 3), np.uint8)
            drawn[:, : 2 * number + 16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def picture(png: bytes) -> Any:
    with av.open(io.BytesIO(png)) as container:
        (frame,) = container.decode(video=0)
        return frame.to_ndarray(format="rgb24")


def number_of(pixels: Any) -> int:
    return round(((pixels > 128).mean() * SIDE - 16) / 2)


@pytest.mark.parametrize("frames", [1, 2, 5, 16, 17, 81])
def test_the_middle_frame_and_frames_from_first_to_last_are_shown(frames: int) -> None:
    thumbnail, sheet = (picture(png) for png in thumbnail_and_sheet(video_of(frames)))
    assert thumbnail.shape == (SIDE, SIDE, 3) and number_of(thumbnail) == frames // 2
    tiles = min(16, frames)
    columns, rows = min(4, tiles), -(-tiles // 4)
    assert sheet.shape[:2] == (rows * SIDE, columns * SIDE)
    corners = [(row * SIDE, column * SIDE) for row, column in (divmod(tile, columns) for tile in range(tiles))]
    shown = [number_of(sheet[top : top + SIDE, left : left + SIDE]) for top, left in corners]
    assert shown == [round(index) for index in np.linspace(0, frames - 1, tiles)]


def test_pictures_of_a_long_video_cost_no_more_memory_than_those_of_a_short_one(tmp_path: Path) -> None:
    side, frames = 640, 161
    names = [tmp_path / "short.mp4", tmp_path / "long.mp4"]
    for name, length in zip(names, (17, frames), strict=True):
        name.write_bytes(video_of(length, side=side))
    command = [sys.executable, "-c", PEAK, *map(str, names)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    short, long = (1024 * int(line) for line in done.stdout.split())
    assert long - short < (frames - 17) * 3 * side**2 / 4


def test_what_is_no_video_has_no_pictures() -> None:
    with pytest.raises(Exception, match="Invalid data"):
        thumbnail_and_sheet(b"an MP4")
