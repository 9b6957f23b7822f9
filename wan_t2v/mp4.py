"""Frames to an MP4: H.264 in BT.709, the index before the frames, the same bytes for the same frames."""

import io
from collections.abc import Callable

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from wan_t2v.cancellation import Cancelled

CODEC_OPTIONS = {
    "preset": "superfast",
    "crf": "18",
    "threads": "1",  # the default depends on the machine's cores, and changes the bytes
    # Off in this preset, on in slower ones. Its SIMD code reads uninitialised memory, so the bytes of small videos
    # would change from run to run.
    "mbtree": "0",
}
_BT709_LIMITED = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
_BT709 = 1  # primaries, transfer and matrix alike, ITU-T H.273


# The index ("moov") is about 800 bytes and, per frame, at most its time (8), offset from that (8), size (4), place in
# the list of key frames (4) and, for a frame of a megabyte, a chunk of its own (16).
_INDEX_BYTES, _INDEX_BYTES_PER_FRAME = 1024, 40
_TICKS_PER_FRAME = 1000


def container_options(frames: int, *, fps: int) -> dict[str, str]:
    """Options of FFmpeg's MP4 muxer: room for the index at the front, and timescales that count frames exactly.

    FFmpeg's `faststart` writes a file twice and so needs one on disk; a reserved index works in memory. With the
    default timescale, durations in the header are rounded up to a millisecond and differ from the sum of the frames.
    """
    ticks = str(_TICKS_PER_FRAME * fps)
    index_bytes = _INDEX_BYTES + _INDEX_BYTES_PER_FRAME * frames
    return {"moov_size": str(index_bytes), "movie_timescale": ticks, "video_track_timescale": ticks}


def mp4_from_frames(frames: NDArray[np.uint8], *, fps: int, is_cancelled: Callable[[], bool] = lambda: False) -> bytes:
    """Encode (T, height, width, 3) uint8 RGB frames; height and width are even. Returns the file's bytes.

    Raises Cancelled before the next frame once `is_cancelled` returns true.
    """
    buffer = io.BytesIO()
    converter = VideoReformatter()  # frame.reformat() would set up a new one for each frame
    with av.open(buffer, "w", format="mp4", options=container_options(len(frames), fps=fps)) as container:
        stream = container.add_stream("libx264", rate=fps, options=CODEC_OPTIONS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = ColorRange.MPEG
        for index, pixels in enumerate(frames):
            if is_cancelled():
                raise Cancelled(f"cancelled after {index} encoded frames")
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(converter.reformat(frame, format="yuv420p", **_BT709_LIMITED)))
        container.mux(stream.encode(None))
    return buffer.getvalue()
