"""What comes back from either door."""

import json
from dataclasses import dataclass
from typing import Any

import tritonclient.grpc
from numpy.typing import NDArray


@dataclass(frozen=True)
class Generation:
    """What came back: `video` (the MP4's bytes), `frames` (T, H, W, 3) uint8 or `latents` (1, C, F, h, w) float32.

    Those that were not asked for (`output_type`) are None. `metadata` holds the effective settings, the seed, the
    graphs that ran and the milliseconds of each stage.
    """

    video: bytes | None
    frames: NDArray[Any] | None
    latents: NDArray[Any] | None
    metadata: dict[str, Any]


def generation_from_answer(answer: tritonclient.grpc.InferResult) -> Generation:
    """Read an answer; outputs that were not asked for are empty in it."""
    video, frames, latents = (answer.as_numpy(name) for name in ("video", "frames", "denoised_latents"))
    return Generation(
        video=video[0] if video.size else None,
        frames=frames if frames.size else None,
        latents=latents if latents.size else None,
        metadata=json.loads(answer.as_numpy("metadata")[0]),
    )
