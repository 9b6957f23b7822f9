"""Check of a clip's height, width and frames: the latent grid, and the sizes that a deployment serves."""

from dataclasses import dataclass

from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.field_checks.ranges import NumberRange
from wan_t2v.shapes import LatentGrid, VideoShape


@dataclass(frozen=True)
class ServedSizes:
    """Clip sizes that a deployment serves: the closed list `listed`, or if that is empty any size up to `largest`.

    `token_passes` limits the work of one request: transformer tokens of the clip times passes of the experts.
    """

    largest: VideoShape
    listed: tuple[VideoShape, ...] = ()
    token_passes: int | None = None


def check_size(video: VideoShape, grid: LatentGrid, served: ServedSizes) -> None:
    """Raise InvalidField for a clip that is not served: not listed, too large, or off the latent grid."""
    if served.listed:
        _check_listed(video, served)
        return
    ranges = size_ranges(grid, served.largest)
    ranges["height"].check("height", video.height)
    ranges["width"].check("width", video.width)
    ranges["num_frames"].check("num_frames", video.frames)


def size_ranges(grid: LatentGrid, largest: VideoShape) -> dict[str, NumberRange]:
    """Return the ranges of heights, widths and frames that fit the grid, up to a largest clip."""
    side, stride = grid.size_multiple_px, grid.time_stride
    most_frames = (largest.frames - 1) // stride * stride + 1
    return {
        "height": NumberRange(side, largest.height // side * side, step=side, unit="pixels"),
        "width": NumberRange(side, largest.width // side * side, step=side, unit="pixels"),
        "num_frames": NumberRange(1, most_frames, step=stride, unit="frames"),
    }


def _check_listed(video: VideoShape, served: ServedSizes) -> None:
    if video not in served.listed:
        nearest = min(served.listed, key=lambda one: sum(abs(a - b) for a, b in zip(one, video, strict=True)))
        accepted = ", ".join(str(one) for one in served.listed)
        raise InvalidField("height, width, num_frames", video, f"height x width x frames {accepted}", nearest=nearest)
