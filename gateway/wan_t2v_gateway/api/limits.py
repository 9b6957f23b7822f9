"""The check of requests against the limits that the server publishes. The gateway has no ranges of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from wan_t2v_client import Limits

from wan_t2v_gateway.api.errors import InvalidField
from wan_t2v_gateway.database.records import MODEL_FPS

_SIZES = ("height", "width", "num_frames")


def check_fields(fields: Mapping[str, Any], limits: Limits) -> None:
    """Raise InvalidField for fields that the server would certainly reject; it checks the rest itself."""
    for name, value in fields.items():
        if name not in limits.fields:
            raise InvalidField(name, "a value", "nothing: the server behind does not know this field")
        if not limits.fields[name].accepts(value):
            raise InvalidField(name, value, f"{limits.fields[name].accepted()} {limits.fields[name].unit}".strip())
    settings = {**limits.defaults, **fields}
    _check_clip(settings, limits)
    _check_steps(settings, fields, limits)
    work = limits.work.token_passes(settings)
    if work > limits.work.maximum_token_passes:
        accepted = f"at most {limits.work.maximum_token_passes} tokens x passes in one request"
        raise InvalidField("num_inference_steps", f"work of {work}", accepted)


def with_defaults(limits: Limits, defaults: Mapping[str, Any]) -> Limits:
    """Return the limits with a gateway's defaults in place of the server's, for the fields that the server knows."""
    fields = {
        name: {**entry, "default": defaults[name]} if name in defaults else entry
        for name, entry in limits.document["fields"].items()
    }
    return Limits.parse({**limits.document, "fields": fields})


def limits_document(limits: Limits | None, offered: Sequence[str]) -> dict[str, Any] | None:
    """Make the limits for `GET /v1/models`: only of `offered` fields, with sizes as WIDTHxHEIGHT; None if unknown.

    `longest_seconds` is that of a video with the model's frames per second.
    """
    if limits is None:
        return None
    height, width, frames = (limits.fields[name].maximum for name in _SIZES)
    fields = {name: entry for name, entry in limits.document["fields"].items() if name in offered}
    return {
        **{name: value for name, value in limits.document.items() if name not in ("fields", "sizes")},
        "largest_size": f"{width}x{height}",
        "most_frames": frames,
        "longest_seconds": (frames or 0) / MODEL_FPS,
        "sizes": sorted({f"{width}x{height}" for height, width, _ in limits.sizes}),
        "clips": list(limits.document["sizes"]),
        "fields": fields,
    }


def _check_clip(settings: Mapping[str, Any], limits: Limits) -> None:
    clip = tuple(settings[name] for name in _SIZES)
    if limits.sizes and clip not in limits.sizes:
        sizes = ", ".join(f"{width}x{height} with {frames} frames" for height, width, frames in limits.sizes)
        raise InvalidField("size", f"{clip[1]}x{clip[0]} with {clip[2]} frames", sizes)


def _check_steps(settings: Mapping[str, Any], fields: Mapping[str, Any], limits: Limits) -> None:
    """Raise InvalidField for a request with few steps that would skip passes."""
    if settings["num_inference_steps"] >= limits.least_steps:
        return
    enough = f"or at least {limits.least_steps} num_inference_steps"
    if fields.get("step_profile", limits.exact_profiles[0]) not in limits.exact_profiles:
        raise InvalidField("step_profile", fields["step_profile"], f"{' or '.join(limits.exact_profiles)}, {enough}")
    for name in ("step_cache", "guidance_skip"):
        if fields.get(name):
            raise InvalidField(name, fields[name], f"0, {enough}")
