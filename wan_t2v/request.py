"""A request's fields, checked once and resolved to the settings that every later step reads.

No value is adjusted. One that cannot be served is refused, with the received value, what is accepted and the nearest
value that works. Standard library only.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from wan_t2v.facts import SOLVERS, ServingDefaults
from wan_t2v.field_checks.invalid_field import InvalidField, closest_name
from wan_t2v.field_checks.ranges import RANGES
from wan_t2v.field_checks.sizes import ServedSizes, check_size
from wan_t2v.shapes import LatentGrid, VideoShape
from wan_t2v.step_profiles.profile import CUSTOM_NAME, EXACT, EXACT_NAME, LEAST_STEPS, StepProfile

OUTPUT_TYPES = ("mp4", "frames", "latents")
VIDEO_ENCODINGS = ("raw", "base64")
CHOICES = {"solver": SOLVERS, "output_type": OUTPUT_TYPES, "video_encoding": VIDEO_ENCODINGS}
FIXED_DEFAULTS = {"output_type": "mp4", "video_encoding": "raw"}  # of fields that do not depend on the checkpoint
GUIDED_ABOVE = 1.0
RAW_PROFILE_FIELDS = ("step_cache", "guidance_skip")


def is_guided(guidance_scale: float) -> bool:
    """Whether a negative pass runs. As in diffusers, only the high-noise expert's scale decides."""
    return guidance_scale > GUIDED_ABOVE


@dataclass(frozen=True)
class Settings:
    """A request with every default resolved: everything that a generation depends on, and nothing else.

    `guidance_scale` is used while the high-noise expert runs, `guidance_scale_2` while the low-noise expert runs.
    `profile` is the profile of the name `step_profile`, with the request's own `step_cache` and `guidance_skip`, which
    are None in a request without them. `sigmas` are the solver's noise levels if the deployment defines them.
    """

    prompt: str
    negative_prompt: str
    height: int
    width: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    guidance_scale_2: float
    flow_shift: float
    seed: int
    fps: int
    output_type: str
    video_encoding: str
    step_profile: str = EXACT_NAME
    profile: StepProfile = EXACT
    solver: str = "unipc"
    sigmas: tuple[float, ...] = ()
    step_cache: float | None = None
    guidance_skip: float | None = None

    @property
    def video_shape(self) -> VideoShape:
        """The clip in pixels."""
        return VideoShape(self.num_frames, self.height, self.width)

    @property
    def passes(self) -> int:
        """Forward passes of the experts, if every one is computed."""
        return self.num_inference_steps * (2 if self.guided else 1)

    @property
    def guided(self) -> bool:
        """Whether a negative pass runs."""
        return is_guided(self.guidance_scale)

    def encoded(self, data: bytes) -> bytes:
        """Return a video's or a preview's bytes in the response's `video_encoding`: raw or base64."""
        return base64.b64encode(data) if self.video_encoding == "base64" else data

    def to_json(self) -> str:
        """Return the settings as one JSON object; `from_json` is the inverse."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Settings":
        """Read what `to_json` wrote."""
        raw = json.loads(text)
        return cls(**{**raw, "profile": StepProfile(**raw["profile"]), "sigmas": tuple(raw["sigmas"])})


def resolve_settings(
    fields: Mapping[str, Any],
    *,
    latents_shape: Sequence[int] | None,
    defaults: ServingDefaults,
    grid: LatentGrid,
    served: ServedSizes,
    fallback_seed: int,
) -> Settings:
    """Check `fields` (absent ones take their default) and return the settings. Raises InvalidField.

    `prompt` and `negative_prompt` must have been cleaned; `latents_shape` is that of the given starting noise.
    """
    step_profile, profile = choose_profile(fields, defaults)
    value = {**asdict(defaults), "seed": fallback_seed, **FIXED_DEFAULTS, **fields}
    _check_numbers(value)
    settings = Settings(
        prompt=_prompt(fields),
        negative_prompt=value["negative_prompt"],
        height=value["height"],
        width=value["width"],
        num_frames=value["num_frames"],
        num_inference_steps=value["num_inference_steps"],
        guidance_scale=value["guidance_scale"],
        guidance_scale_2=value["guidance_scale_2"],
        flow_shift=value["flow_shift"],
        seed=value["seed"],
        fps=value["fps"],
        output_type=_choice("output_type", value["output_type"], CHOICES["output_type"]),
        video_encoding=_choice("video_encoding", value["video_encoding"], CHOICES["video_encoding"]),
        step_profile=step_profile,
        profile=profile,
        solver=_choice("solver", value["solver"], CHOICES["solver"]),
        sigmas=_deployed_sigmas(value, defaults),
        step_cache=fields.get("step_cache"),
        guidance_skip=fields.get("guidance_skip"),
    )
    check_size(settings.video_shape, grid, served)
    _check_work(settings, grid, served)
    _check_profile(settings, fields)
    _check_latents(latents_shape, settings.video_shape, grid)
    return settings


def _deployed_sigmas(value: Mapping[str, Any], defaults: ServingDefaults) -> tuple[float, ...]:
    """Return the deployment's noise levels, which hold for `euler` at the default steps and shift; else nothing."""
    # a request's number is in single precision
    same_shift = math.isclose(value["flow_shift"], defaults.flow_shift, rel_tol=1e-6)
    own = same_shift and value["num_inference_steps"] == defaults.num_inference_steps
    return defaults.sigmas if own and value["solver"] == "euler" else ()


def choose_profile(fields: Mapping[str, Any], defaults: ServingDefaults) -> tuple[str, StepProfile]:
    """Return the step profile's name, and the profile with the request's own raw values. Raises InvalidField."""
    raw = {name: fields[name] for name in RAW_PROFILE_FIELDS if name in fields}
    _check_numbers(raw)
    name = fields.get("step_profile", CUSTOM_NAME if any(raw.values()) else EXACT_NAME)
    if name == CUSTOM_NAME and "step_profile" not in fields:
        return name, _with_raw(EXACT, raw)
    profiles = known_profiles(defaults)
    profile = profiles[_choice("step_profile", name, tuple(profiles))]
    if profile.static_reuse and raw.get("step_cache"):
        raise InvalidField("step_cache", f"{raw['step_cache']:g} with {name}, which reuses by a static schedule", "0")
    if profile.is_exact and any(raw.values()):
        accepted = f"{EXACT_NAME} with {' and '.join(raw)} of 0 or left out, or other values without step_profile"
        raise InvalidField("step_profile", f"{name} with {raw}", accepted)
    return name, _with_raw(profile, raw)


def known_profiles(defaults: ServingDefaults) -> dict[str, StepProfile]:
    """The profiles that a request may name."""
    return {EXACT_NAME: EXACT, **defaults.step_profiles}


def _with_raw(profile: StepProfile, raw: Mapping[str, float]) -> StepProfile:
    step_cache = raw.get("step_cache", profile.step_cache)
    return replace(profile, step_cache=step_cache, guidance_skip=raw.get("guidance_skip", profile.guidance_skip))


def _prompt(fields: Mapping[str, Any]) -> str:
    if "prompt" not in fields:
        raise InvalidField("prompt", "nothing", "a text that describes the video")
    if not fields["prompt"]:
        raise InvalidField("prompt", "an empty text", "a text that describes the video")
    prompt: str = fields["prompt"]
    return prompt


def _check_numbers(value: Mapping[str, Any]) -> None:
    for field, accepted in RANGES.items():
        if field in value:
            accepted.check(field, value[field])


def _choice(field: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise InvalidField(field, repr(value), " or ".join(choices), nearest=closest_name(value, choices))
    return value


def _check_work(settings: Settings, grid: LatentGrid, served: ServedSizes) -> None:
    tokens = grid.tokens(settings.video_shape)
    if served.token_passes is None or settings.passes * tokens <= served.token_passes:
        return
    steps = served.token_passes // tokens // (settings.passes // settings.num_inference_steps)
    raise InvalidField(
        "num_inference_steps",
        f"{settings.num_inference_steps} for {settings.video_shape}, {settings.passes} passes over {tokens} tokens",
        f"at most {served.token_passes} tokens x passes in one request",
        nearest=steps if steps else None,
    )


def _check_profile(settings: Settings, fields: Mapping[str, Any]) -> None:
    if settings.profile.is_exact:
        return
    if settings.num_inference_steps < LEAST_STEPS:
        field = next(name for name in ("step_profile", *RAW_PROFILE_FIELDS) if name in fields)
        came = f"{settings.step_profile} with {settings.num_inference_steps} steps"
        raise InvalidField(field, came, f"{EXACT_NAME}, or at least {LEAST_STEPS} num_inference_steps")
    if fields.get("guidance_skip") and not settings.guided:
        came = f"{fields['guidance_skip']:g} with guidance_scale {settings.guidance_scale:g}"
        raise InvalidField("guidance_skip", came, "0 where no negative pass runs, or a guidance_scale above 1")
    if not settings.profile.reuses_steps and not settings.guided:
        came = f"{settings.step_profile}, which skips negative passes, with guidance_scale {settings.guidance_scale:g}"
        accepted = f"{EXACT_NAME} where no negative pass runs, or a guidance_scale above 1"
        raise InvalidField("step_profile", came, accepted)


def _check_latents(shape: Sequence[int] | None, video: VideoShape, grid: LatentGrid) -> None:
    expected = grid.latent_shape(video).tensor_shape
    if shape is not None and tuple(shape) != expected:
        raise InvalidField("latents", f"shape {list(shape)}", f"shape {list(expected)} for {video}", nearest=None)
