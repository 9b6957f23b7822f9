"""Pictures of a finished video: one frame, and a sheet of frames."""

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

_TILES = 16  # per sheet, four per row
_PER_ROW = 4
_WIDEST = 1280


def thumbnail_and_sheet(video: bytes) -> tuple[bytes, bytes]:
    """Make the middle frame and a sheet of up to 16 frames, each as PNG.

    The video is decoded twice, once to count its frames: those of one video together are larger than a gateway.
    """
    count = sum(1 for _ in _frames(video))
    chosen = {round(index) for index in np.linspace(0, count - 1, min(_TILES, count))}
    tiles: list[NDArray[Any]] = []
    thumbnail = b""
    for index, frame in enumerate(_frames(video)):
        if index == count // 2:
            thumbnail = _png(_pixels(frame))
        if index in chosen:
            shrink = max(1, -(-frame.width * min(_PER_ROW, len(chosen)) // _WIDEST))
            tiles.append(_pixels(frame)[::shrink, ::shrink].copy())  # a view would keep the whole frame
    return thumbnail, _png(_sheet(tiles))


def _frames(video: bytes) -> Iterator[av.VideoFrame]:
    """Decode a video, and hold one frame at a time."""
    with av.open(io.BytesIO(video)) as container:
        yield from container.decode(video=0)


def _pixels(frame: av.VideoFrame) -> NDArray[Any]:
    pixels: NDArray[Any] = frame.to_ndarray(format="rgb24")
    return pixels


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
