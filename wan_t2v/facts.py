"""Facts of a checkpoint, and the serving defaults that its authors recommend.

The export reads facts from the checkpoint's own config files and installs them with the graphs as `model_facts.json`.
Serving defaults are in none of those files, so `serving_defaults.json` gives each with its source.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from wan_t2v.installed_files import parse_installed
from wan_t2v.shapes import LatentGrid
from wan_t2v.step_profiles.profile import CUSTOM_NAME, EXACT_NAME, StepProfile

FACTS_FILE = "model_facts.json"
DEFAULTS_FILE = "serving_defaults.json"
TOKENIZER_FILE = "tokenizer.json"
_PROFILE_NAME = re.compile(r"[a-z0-9_]{1,64}")
_LEAST_FIRST_SIGMA = 0.99
SOLVERS = ("unipc", "euler")
_TYPE_NAMES = {int: "an integer", float: "a number", str: "a text"}


@dataclass(frozen=True)
class ModelFacts:
    """Fixed numbers of a Wan2.2 checkpoint.

    Attributes:
        grid: strides of VAE and patch embedding.
        latents_mean, latents_std: one value per latent channel; the denoiser works on `(z - mean) / std`.
        boundary_ratio: share of the training timesteps below which the low-noise expert takes over (0.875).
        num_train_timesteps: timesteps run from here down to 0 (1000).
        scheduler: the checkpoint's `scheduler_config.json`.
        text_length: number of tokens to which a prompt is padded or truncated.
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
        return parse_installed(folder / FACTS_FILE, cls._from_json)

    @classmethod
    def _from_json(cls, text: str) -> "ModelFacts":
        raw = json.loads(text)
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
    """Values of request fields that a request leaves out. Sizes in pixels, `fps` in frames per second.

    `step_profiles` are those that a request may name besides `exact`. `sigmas` are the noise levels of the solver
    `euler` at the default steps and shift, from 1 down to 0; if empty, they are computed.
    """

    height: int
    width: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    guidance_scale_2: float
    flow_shift: float
    fps: int
    negative_prompt: str
    step_profiles: Mapping[str, StepProfile] = field(default_factory=dict)
    solver: str = "unipc"
    sigmas: tuple[float, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "ServingDefaults":
        """Read `serving_defaults.json` in `folder`. Raises FileNotFoundError naming the command that makes it."""
        return parse_installed(folder / DEFAULTS_FILE, lambda text: cls.from_entries(json.loads(text)))

    @classmethod
    def from_entries(cls, entries: Any) -> "ServingDefaults":
        """Read `{field: {"value": ..., "source": ...}}`. Raises ValueError naming the field that is wrong."""
        types = {one.name: one.type for one in fields(cls)}
        required = {one.name for one in fields(cls) if one.default is one.default_factory is MISSING}
        if not isinstance(entries, dict):
            raise ValueError(f"a JSON {type(entries).__name__}, accepted: an object")
        if wrong := sorted((entries.keys() - types.keys()) | (required - entries.keys())):
            raise ValueError(f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} missing or unknown")
        defaults = cls(**{name: _value(name, entry, types[name]) for name, entry in entries.items()})
        if defaults.sigmas and len(defaults.sigmas) != defaults.num_inference_steps + 1:
            steps = defaults.num_inference_steps
            raise ValueError(f"sigmas has {len(defaults.sigmas)} numbers, accepted: {steps + 1} for {steps} steps")
        return defaults


def _value(name: str, entry: Any, kind: Any) -> Any:
    """Return an entry's value if it has the field's type; an integer counts as a number too. Raises ValueError."""
    if not isinstance(entry, dict) or "value" not in entry:
        raise ValueError(f"{name} is {entry!r}, accepted: an object with a value and its source")
    value = entry["value"]
    if name in _PARSERS:
        return _PARSERS[name](value)
    accepted = (int, float) if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise ValueError(f"{name} is {value!r}, accepted: {_TYPE_NAMES[kind]}")
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate, which JSON may contain and no tokeniser accepts, raises ValueError
    return value


def _solver(value: Any) -> str:
    """Return a solver's name. Raises ValueError for another one."""
    if value not in SOLVERS:
        raise ValueError(f"solver is {value!r}, accepted: {' or '.join(SOLVERS)}")
    return str(value)


def _profiles(value: Any) -> dict[str, StepProfile]:
    """Parse step profiles, by name. Raises ValueError naming the profile that is wrong."""
    if not isinstance(value, dict):
        raise ValueError(f"step_profiles is {value!r}, accepted: an object of profiles")
    profiles = {}
    for name, raw in value.items():
        if name in (EXACT_NAME, CUSTOM_NAME) or not _PROFILE_NAME.fullmatch(name):
            raise ValueError(
                f"step_profiles: the name {name!r}, accepted: another word of at most 64 of a-z, 0-9 and _"
            )
        try:
            profiles[name] = StepProfile.parse(raw)
        except ValueError as error:
            raise ValueError(f"step_profiles: {name}: {error}") from None
    return profiles


def _sigmas(value: Any) -> tuple[float, ...]:
    """Parse noise levels. Raises ValueError unless they fall from 1 to 0."""
    numbers = isinstance(value, list) and all(type(one) is int or _is_finite_float(one) for one in value)
    if not numbers or len(value) < 2 or value[0] > 1 or value[-1] != 0 or any(a <= b for a, b in pairwise(value)):
        raise ValueError(f"sigmas is {value!r}, accepted: a list of numbers that fall from 1 to 0")
    if value[0] < _LEAST_FIRST_SIGMA:
        raise ValueError(
            f"sigmas begins at {value[0]!r}, accepted: {_LEAST_FIRST_SIGMA} to 1, since a generation starts from noise "
            "that is not scaled"
        )
    return tuple(float(one) for one in value)


def _is_finite_float(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


_PARSERS: Mapping[str, Callable[[Any], Any]] = {"step_profiles": _profiles, "solver": _solver, "sigmas": _sigmas}
