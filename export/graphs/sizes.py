"""Clip sizes for which a deployment can build plans.

Wan2.2-T2V-A14B was trained at four sizes. Two more are listed because users want them, and are marked as untrained. A
checkpoint with another text width, such as wan-mini, is not A14B: its training sizes are unknown here, so every size
that its latent grid divides is accepted.
"""

from dataclasses import dataclass

from export.errors import ExpectedError
from wan_t2v.facts import ModelFacts
from wan_t2v.shapes import VideoShape

FRAMES = 81  # default number of frames: Wan2.2 was trained with it, and it is five seconds
A14B_TEXT_DIM = 4096


class SizeError(ExpectedError, ValueError):
    """A size for which no plan can be built. The message lists the accepted ones."""


@dataclass(frozen=True)
class ListedSize:
    """One size of A14B in pixels, and whether A14B was trained for it."""

    height: int
    width: int
    trained: bool

    def __str__(self) -> str:
        return f"{self.height}x{self.width}" + ("" if self.trained else " (untrained)")


LISTED_SIZES = (
    ListedSize(480, 832, trained=True),
    ListedSize(832, 480, trained=True),
    ListedSize(720, 1280, trained=True),
    ListedSize(1280, 720, trained=True),
    ListedSize(480, 640, trained=False),
    ListedSize(1280, 1280, trained=False),
)


def named_sizes(text: str, facts: ModelFacts) -> tuple[VideoShape, ...]:
    """Parse `480x832x81,720x1280`: height, width and, if not 81, frames. Raises SizeError."""
    sizes = tuple(_named_size(part.strip(), facts) for part in text.split(","))
    if len(set(sizes)) < len(sizes):
        raise SizeError(f"sizes are {text!r}: one is named twice")
    return sizes


def is_listed(size: VideoShape, text_dim: int) -> bool:
    """Whether plans can be built for this height and width, of a checkpoint with this width of text."""
    listed = {(known.height, known.width) for known in LISTED_SIZES}
    return text_dim != A14B_TEXT_DIM or (size.height, size.width) in listed


def is_trained(size: VideoShape, facts: ModelFacts) -> bool:
    """Whether A14B was trained for this size. Another checkpoint is assumed to be trained for every size."""
    if facts.text_dim != A14B_TEXT_DIM:
        return True
    listed = {(known.height, known.width): known.trained for known in LISTED_SIZES}
    return listed[size.height, size.width] and size.frames == FRAMES


def _named_size(text: str, facts: ModelFacts) -> VideoShape:
    try:
        size = VideoShape.parse(text, frames=FRAMES)
    except ValueError as error:
        raise SizeError(f"size {error}") from None
    if size.frames < 1 or (size.frames - 1) % facts.grid.time_stride:
        raise SizeError(f"size {text!r}: {size.frames} frames, accepted: {facts.grid.time_stride}k+1, such as {FRAMES}")
    if facts.text_dim != A14B_TEXT_DIM:
        _check_grid(text, size, facts.grid.size_multiple_px)
    elif not is_listed(size, facts.text_dim):
        raise SizeError(f"size {text!r}, accepted: {', '.join(map(str, LISTED_SIZES))}; with or without frames")
    return size


def _check_grid(text: str, size: VideoShape, multiple: int) -> None:
    if not all(pixels and pixels % multiple == 0 for pixels in (size.height, size.width)):
        raise SizeError(f"size {text!r}, accepted: height and width in multiples of {multiple} pixels")
