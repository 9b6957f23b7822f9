"""The limits of requests as the server publishes them: every field with its range, choices, unit and default.

`prepare`, which enforces these limits, writes the document to the run directory. The streaming endpoint sends it in
reply to a request with the parameter `limits` and without any field. Its schema is `docs/use/limits.schema.json`.
"""

from collections.abc import Mapping
from typing import Any

from wan_t2v.contract import STREAM_REQUEST, Dtype
from wan_t2v.facts import ModelFacts, ServingDefaults
from wan_t2v.field_checks.ranges import RANGES, NumberRange
from wan_t2v.field_checks.sizes import ServedSizes, size_ranges
from wan_t2v.field_checks.texts import MAX_PROMPT_BYTES
from wan_t2v.operate.run_directory import REQUEST_LIMITS, RunDirectory
from wan_t2v.request import CHOICES, FIXED_DEFAULTS, GUIDED_ABOVE, known_profiles
from wan_t2v.serving.errors import AdmissionError
from wan_t2v.shapes import VideoShape
from wan_t2v.step_profiles.profile import EXACT_NAME, LEAST_STEPS

VERSION = 1
_TYPES = {Dtype.BYTES: "text", Dtype.INT32: "integer", Dtype.INT64: "integer", Dtype.FP32: "number"}
_PROMPTS = ("prompt", "negative_prompt")
_SIZES = ("height", "width", "num_frames")
_FRAMES_FIRST = ("num_frames", "height", "width")  # as VideoShape has them


class LimitsNotPublished(AdmissionError):
    """`prepare` has not published the limits: it has not started yet, or is restarting."""


def limits_document(*, defaults: ServingDefaults, facts: ModelFacts, served: ServedSizes) -> dict[str, Any]:
    """Make the document of the limits, one JSON object."""
    profiles = known_profiles(defaults)
    return {
        "version": VERSION,
        "fields": _fields(defaults, facts, served),
        "sizes": [{name: _side(clip, name) for name in _SIZES} for clip in served.listed],
        "work": {
            "maximum_token_passes": served.token_passes,
            "pixels_per_token": facts.grid.size_multiple_px,
            "frames_per_latent": facts.grid.time_stride,
            "guided_above": GUIDED_ABOVE,
        },
        "step_profiles": {
            "least_steps": LEAST_STEPS,
            "exact": [name for name, profile in profiles.items() if profile.is_exact],
        },
    }


def publish_limits(run: RunDirectory, document: Mapping[str, Any]) -> None:
    """Write the document to the run directory, for the streaming endpoint."""
    run.write_json(REQUEST_LIMITS, dict(document))


def read_limits(run: RunDirectory) -> dict[str, Any]:
    """Read the document that was published last. Raises LimitsNotPublished."""
    document = run.read_json(REQUEST_LIMITS)
    if not document:
        raise LimitsNotPublished("the model prepare is being started; try again later")
    return document


def read_served_sizes(run: RunDirectory) -> ServedSizes:
    """Read the sizes that the deployment serves from the document. Raises LimitsNotPublished."""
    document = read_limits(run)
    listed = tuple(VideoShape(*(size[name] for name in _FRAMES_FIRST)) for size in document["sizes"])
    largest = VideoShape(*(document["fields"][name]["maximum"] for name in _FRAMES_FIRST))
    return ServedSizes(largest, listed, document["work"]["maximum_token_passes"])


def _fields(defaults: ServingDefaults, facts: ModelFacts, served: ServedSizes) -> dict[str, dict[str, Any]]:
    ranges = {**RANGES, **size_ranges(facts.grid, served.largest)}
    choices: dict[str, tuple[str, ...]] = {**CHOICES, "step_profile": tuple(known_profiles(defaults))}
    default_values = _defaults(defaults)
    fields = {}
    for spec in STREAM_REQUEST:
        entry: dict[str, Any] = {"type": "array" if spec.name == "latents" else _TYPES[spec.dtype]}
        if spec.name in _PROMPTS:
            entry |= {"maximum_bytes": MAX_PROMPT_BYTES, "read_tokens": facts.text_length}
        if spec.name in ranges:
            entry |= _range_entry(ranges[spec.name])
        if spec.name in choices:
            entry["choices"] = list(choices[spec.name])
        if spec.name in _SIZES and served.listed:
            entry |= _listed_entry(sorted({_side(clip, spec.name) for clip in served.listed}))
        if spec.name in default_values:
            entry["default"] = default_values[spec.name]
        fields[spec.name] = entry
    fields["prompt"]["required"] = True
    return fields


def _range_entry(accepted: NumberRange) -> dict[str, Any]:
    return {
        "minimum": accepted.minimum,
        **({} if accepted.maximum is None else {"maximum": accepted.maximum}),
        **({} if accepted.step == 1 else {"step": accepted.step}),
        **({"unit": accepted.unit} if accepted.unit else {}),
    }


def _listed_entry(values: list[int]) -> dict[str, Any]:
    return {"minimum": values[0], "maximum": values[-1], "choices": values}


def _side(clip: Any, name: str) -> int:
    return int({"height": clip.height, "width": clip.width, "num_frames": clip.frames}[name])


def _defaults(defaults: ServingDefaults) -> dict[str, Any]:
    """Return the default of each field that has one.

    A seed is drawn, and a prompt is required. The raw values of a profile are by default those of the profile that the
    request names.
    """
    of_checkpoint = {spec.name: getattr(defaults, spec.name, None) for spec in STREAM_REQUEST}
    known = {**of_checkpoint, **FIXED_DEFAULTS, "step_profile": EXACT_NAME, "preview_every": 0}
    return {name: value for name, value in known.items() if value is not None}
