"""Sizes of a clip in pixels and in latents, and the only place that converts between them."""

from dataclasses import dataclass
from typing import NamedTuple


class VideoShape(NamedTuple):
    """A clip in pixels: `frames` of `height` x `width` pixels."""

    frames: int
    height: int
    width: int

    @classmethod
    def parse(cls, text: str, *, frames: int | None = None) -> "VideoShape":
        """Read `<height>x<width>x<frames>`; with a default of `frames`, `<height>x<width>` too.

        Raises ValueError, whose message says what is accepted.
        """
        parts = text.split("x")
        numbers = [int(part) for part in parts if part.isascii() and part.isdecimal()]
        if len(numbers) == len(parts) == 2 and frames is not None:
            return cls(frames, *numbers)
        if len(numbers) == len(parts) == 3:
            return cls(numbers[2], *numbers[:2])
        shorter = "" if frames is None else "<height>x<width> or "
        raise ValueError(f"{text!r}, accepted: {shorter}<height>x<width>x<frames>, such as 720x1280x81")

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.frames}"


class LatentShape(NamedTuple):
    """A clip's size in latents."""

    channels: int
    frames: int
    height: int
    width: int

    @property
    def tensor_shape(self) -> tuple[int, int, int, int, int]:
        """`(1, channels, frames, height, width)`: one clip per request."""
        return (1, *self)


@dataclass(frozen=True)
class LatentGrid:
    """Strides from pixels to latents, and from latents to transformer tokens.

    Attributes:
        channels: latent channels (the VAE's `z_dim`).
        time_stride: frames per latent frame, after the first one.
        space_stride: pixels per latent, in height and in width.
        patch: latents per transformer token, in height and in width.
    """

    channels: int
    time_stride: int
    space_stride: int
    patch: int

    @property
    def size_multiple_px(self) -> int:
        """Height and width must be multiples of this many pixels, or a row of latents has no token."""
        return self.space_stride * self.patch

    def latent_shape(self, video: VideoShape) -> LatentShape:
        """Return the latents' size for a clip. The VAE is causal, so the first frame is a latent frame of its own."""
        return LatentShape(
            self.channels,
            _exact_div(video.frames - 1, self.time_stride) + 1,
            _exact_div(video.height, self.space_stride),
            _exact_div(video.width, self.space_stride),
        )

    def video_shape(self, latents: LatentShape) -> VideoShape:
        """The clip that these latents decode to: the inverse of `latent_shape`."""
        return VideoShape(
            (latents.frames - 1) * self.time_stride + 1,
            latents.height * self.space_stride,
            latents.width * self.space_stride,
        )

    def tokens(self, video: VideoShape) -> int:
        """Transformer tokens of a clip: 75,600 for Wan2.2-T2V-A14B at 720x1280x81."""
        latents = self.latent_shape(video)
        return latents.frames * _exact_div(latents.height, self.patch) * _exact_div(latents.width, self.patch)


def _exact_div(value: int, divisor: int) -> int:
    quotient, rest = divmod(value, divisor)
    if rest:
        raise ValueError(f"{value} is not a multiple of {divisor}")
    return quotient
