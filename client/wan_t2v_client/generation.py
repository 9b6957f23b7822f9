"""The result of a generation, from either endpoint."""

import json
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from tritonclient.grpc import InferResult

from wan_t2v_client.errors import ServerFault

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)  # what parsing can raise


@dataclass(frozen=True)
class Generation:
    """The result: `video` (the MP4's bytes), `frames` (T, H, W, 3) uint8 or `latents` (1, C, F, h, w) float32.

    Outputs that were not requested by `output_type` are None. `metadata` has the effective settings, the seed, the
    graphs that ran and the milliseconds of each stage.
    """

    video: bytes | None
    frames: NDArray[Any] | None
    latents: NDArray[Any] | None
    metadata: dict[str, Any]


def generation_from_answer(answer: InferResult) -> Generation:
    """Parse a response; outputs that were not requested are empty in it. Raises ServerFault if it cannot be parsed."""
    try:
        video, frames, latents = (answer.as_numpy(name) for name in ("video", "frames", "denoised_latents"))
        return Generation(
            video=video[0] if video.size else None,
            frames=frames if frames.size else None,
            latents=latents if latents.size else None,
            metadata=json.loads(answer.as_numpy("metadata")[0]),
        )
    except UNREADABLE as error:
        raise unreadable(error) from None


def unreadable(error: Exception) -> ServerFault:
    """Make the error for a response that this client cannot parse."""
    return ServerFault(f"the server's answer cannot be read ({type(error).__name__}: {str(error)[:100]})")
