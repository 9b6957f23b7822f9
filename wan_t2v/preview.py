"""Preview picture of the predicted clean video, from latents by one linear map: no VAE runs.

The map is fitted to the checkpoint's VAE at export (`latent_preview.py`) and travels as `latent_preview.json`.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from wan_t2v.installed_files import parse_installed

PREVIEW_FILE = "latent_preview.json"


@dataclass(frozen=True)
class PreviewMap:
    """Map `rgb = bias + latent @ weights`, RGB in [0, 1]. `weights` has one row of three per normalised channel."""

    weights: Sequence[Sequence[float]]
    bias: Sequence[float]

    def picture(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Render the middle latent frame of (1, C, F, h, w) normalised latents as (h, w, 3) uint8."""
        middle = latents[0, :, latents.shape[2] // 2]
        colours = np.tensordot(middle, np.asarray(self.weights), axes=(0, 0)) + np.asarray(self.bias)
        pixels: NDArray[np.uint8] = (colours.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
        return pixels

    def to_json(self) -> str:
        """The text of `latent_preview.json`."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "PreviewMap":
        """Read `latent_preview.json` in `folder`. Raises FileNotFoundError naming the command that makes it."""
        return parse_installed(folder / PREVIEW_FILE, cls.from_json)

    @classmethod
    def from_json(cls, text: str) -> "PreviewMap":
        """Read what `to_json` wrote. Raises ValueError if it is no such map."""
        raw = json.loads(text)
        if not isinstance(raw, dict) or raw.keys() != {"weights", "bias"}:
            raise ValueError("accepted: an object with weights and bias")
        try:
            weights, bias = (np.asarray(raw[name], dtype=np.float64) for name in ("weights", "bias"))
        except TypeError as error:
            raise ValueError(f"weights and bias are lists of numbers ({error})") from None
        if weights.ndim != 2 or weights.shape[1] != 3 or bias.shape != (3,):
            raise ValueError(f"weights have the shape {weights.shape} and bias {bias.shape}, accepted: (n, 3) and (3,)")
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise ValueError("weights or bias hold values that are no finite numbers")
        return cls(raw["weights"], raw["bias"])


def png_from_picture(picture: NDArray[np.uint8]) -> bytes:
    """Encode (h, w, 3) uint8 RGB as PNG."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="image2pipe") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()
