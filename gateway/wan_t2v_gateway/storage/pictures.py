"""Pictures of a finished video: one frame, and a sheet of frames."""

import io
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

_TILES = 16  # per sheet, four per row
_PER_ROW = 4
_WIDEST = 1280


def thumbnail_and_sheet(video: bytes) -> tuple[bytes, bytes]:
    """Make the middle frame and a sheet of up to 16 frames, each as PNG."""
    with av.open(io.BytesIO(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    chosen = [frames[round(index)] for index in np.linspace(0, len(frames) - 1, min(_TILES, len(frames)))]
    shrink = max(1, -(-chosen[0].shape[1] * min(_PER_ROW, len(chosen)) // _WIDEST))
    return _png(frames[len(frames) // 2]), _png(_sheet([frame[::shrink, ::shrink] for frame in chosen]))


def _sheet(tiles: list[NDArray[Any]]) -> NDArray[Any]:
    height, width, _ = tiles[0].shape
    columns = min(_PER_ROW, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
    return sheet


def _png(picture: NDArray[Any]) -> bytes:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, "rgb24"
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
