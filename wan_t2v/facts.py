"""What a checkpoint says about itself (facts) and what its authors recommend (serving defaults).

Facts are read from the checkpoint's own config files at export and travel with the graphs as `model_facts.json`;
serving defaults stand in no config file, so `serving_defaults.json` carries each with its source.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wan_t2v.shapes import LatentGrid

FACTS_FILE = "model_facts.json"
DEFAULTS_FILE = "serving_defaults.json"
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class ModelFacts:
    """Fixed numbers of a Wan2.2 checkpoint.

    Attributes:
        grid: strides of VAE and patch embedding.
        latents_mean, latents_std: one value a latent channel; the denoiser works on `(z - mean) / std`.
        boundary_ratio: share of the training timesteps below which the low-noise expert takes over (0.875).
        num_train_timesteps: timesteps run from here down to 0 (1000).
        scheduler: the checkpoint's `scheduler_config.json`.
        text_length: tokens a prompt is padded or cut to.
        text_dim: width of a text embedding.
    """

    grid: LatentGrid
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]
    boundary_ratio: float
    num_train_timesteps: int
    scheduler: Mapping[str, Any]
    text_length: int
    text_dim: int

    @property
    def boundary_timestep(self) -> float:
        """The high-noise expert runs at timesteps from here up (875.0), the low-noise expert below."""
        return self.boundary_ratio * self.num_train_timesteps

    def to_json(self) -> str:
        """The text of `model_facts.json`."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "ModelFacts":
        """Read `model_facts.json` in `folder`. Raises FileNotFoundError naming the command that makes it."""
        raw = json.loads(read_installed(folder / FACTS_FILE))
        return cls(
            **{
                **raw,
                "grid": LatentGrid(**raw["grid"]),
                "latents_mean": tuple(raw["latents_mean"]),
                "latents_std": tuple(raw["latents_std"]),
            }
        )


@dataclass(frozen=True)
class ServingDefaults:
    """Values of request fields that a request leaves out. Sizes in pixels, `fps` in frames a second."""

    height: int
    width: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    guidance_scale_2: float
    flow_shift: float
    fps: int
    negative_prompt: str

    @classmethod
    def read(cls, folder: Path) -> "ServingDefaults":
        """Read `serving_defaults.json`: `{field: {"value": ..., "source": ...}}`."""
        raw = json.loads(read_installed(folder / DEFAULTS_FILE))
        return cls(**{name: entry["value"] for name, entry in raw.items()})


def read_installed(path: Path) -> str:
    """Text of a file that `make export` installs; its absence is answered with that command."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise missing(path) from None


def missing(path: Path) -> FileNotFoundError:
    """The error for a file that `make export` installs."""
    return FileNotFoundError(
        f"{path} is missing. Run `make export` (wan-mini) or `make export CHECKPOINT=<diffusers folder>` first."
    )
