"""A request's fields: those of the Videos API and the server's own, checked against the server's published limits."""

import difflib
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wan_t2v_client import Limits
from wan_t2v_client.errors import RequestRefused
from wan_t2v_client.fields import FIELDS, plain_value

from wan_t2v_gateway.api.errors import InvalidField
from wan_t2v_gateway.api.limits import check_fields
from wan_t2v_gateway.database.records import MODEL_FPS

MODEL = "wan2.2-t2v"
_OWN = ("model", "seconds", "size", "webhook_url")
# A field that stands for others, or that contradicts them.
_REPLACES = {"size": ("width", "height"), "seconds": ("num_frames",), "step_profile": ("step_cache", "guidance_skip")}
_NOT_OFFERED = {
    "input_reference": "this model makes videos from text alone",
    "image_reference": "this model makes videos from text alone",
    "video_reference": "this model makes videos from text alone",
    "latents": "it is offered by the server's gRPC endpoint alone",
    "output_type": "a job's result is an MP4",
    "video_encoding": "a job's result is an MP4",
    "n": "one job is one video",
}
_SPELT = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
OFFERED = tuple(name for name in FIELDS if name not in _NOT_OFFERED)
KNOWN = (*_OWN, *OFFERED)


@dataclass(frozen=True)
class VideoRequest:
    """A checked request. `fields` are those that go to the server."""

    model: str
    fields: dict[str, Any]
    webhook_url: str


def video_request(given: Mapping[str, Any], limits: Limits) -> VideoRequest:
    """Check a body. Raises InvalidField with the name of the field."""
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        _check_name(name)
        _check_plain(name, value)
    fields = {name: _value(name, given[name]) for name in OFFERED if name in given}
    if not str(fields.get("prompt", "")).strip():
        raise InvalidField("prompt", given.get("prompt"), "a text")
    fields |= _size(given) | _frames(given, limits, fps=fields.get("fps", MODEL_FPS))
    check_fields(fields, limits)
    # Drawn now, so that every attempt makes the same video; of 31 bits, so that callers can keep it as an int32.
    fields.setdefault("seed", secrets.randbelow(2**31))
    return VideoRequest(_model(given), fields, str(given.get("webhook_url", "")))


def remaining(inherited: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of another video without those that a given field replaces, as `size` does width and height."""
    replaced = {name for field, names in _REPLACES.items() if given.get(field) is not None for name in names}
    return {name: value for name, value in inherited.items() if name not in replaced}


def _check_name(name: str) -> None:
    if name in _NOT_OFFERED:
        raise InvalidField(name, "a value", f"nothing: {_NOT_OFFERED[name]}")
    if name not in KNOWN:
        near = difflib.get_close_matches(name[:64], KNOWN, n=1)
        hint = f" (is {near[0]} meant?)" if near else ""
        raise InvalidField(name[:64], "an unknown field", f"{', '.join(KNOWN)}{hint}")


def _check_plain(name: str, value: Any) -> None:
    """Raise InvalidField for several values, a file, or a text that Postgres cannot store."""
    if isinstance(value, list | dict):
        raise InvalidField(name, "several values or a file", "one value")
    if isinstance(value, str) and ("\0" in value or not value.isascii() and not _is_unicode(value)):
        raise InvalidField(name, value, "a text without U+0000 and half surrogate pairs, which cannot be kept")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _model(given: Mapping[str, Any]) -> str:
    model = given.get("model", MODEL)
    if model != MODEL:
        raise InvalidField("model", model, MODEL)
    return MODEL


def _value(name: str, value: Any) -> Any:
    """Convert a field's value to the server's type; a form sends numbers as texts. Raises InvalidField."""
    datatype = FIELDS[name].datatype
    try:
        if datatype == "BYTES":
            if not isinstance(value, str):
                raise TypeError("a text is needed")
            return value
        number = _number(value) if isinstance(value, str) else value
        plain = plain_value(datatype, number)
        if isinstance(plain, float) and not math.isfinite(plain):
            raise ValueError("not finite")
        return plain
    except (ValueError, TypeError, OverflowError, RequestRefused):
        kinds = {"BYTES": "a text", "FP32": "a number"}
        raise InvalidField(name, value, kinds.get(datatype, "a whole number")) from None


def _number(text: str) -> float | int:
    """Parse a number in JSON's syntax. Python accepts more: `1_0`, other scripts' digits, surrounding blanks."""
    if not _SPELT.fullmatch(text):
        raise ValueError("no number")
    try:
        return int(text)
    except ValueError:
        return float(text)


def _size(given: Mapping[str, Any]) -> dict[str, int]:
    """Parse `size`, which is WIDTHxHEIGHT here as in the Videos API; the client's command has HEIGHTxWIDTH."""
    if "size" not in given:
        return {}
    for name in ("width", "height"):
        if name in given:
            raise InvalidField(name, given[name], "either size, or width and height")
    width, _, height = str(given["size"]).partition("x")
    if not re.fullmatch(r"[1-9][0-9]{0,5}x[1-9][0-9]{0,5}", str(given["size"])):
        raise InvalidField("size", given["size"], "WIDTHxHEIGHT in pixels, such as 1280x720")
    return {"width": int(width), "height": int(height)}


def _frames(given: Mapping[str, Any], limits: Limits, *, fps: int) -> dict[str, int]:
    """Convert `seconds` of the played video to the nearest accepted number of frames."""
    if "seconds" not in given:
        return {}
    if "num_frames" in given:
        raise InvalidField("num_frames", given["num_frames"], "either seconds or num_frames")
    came = given["seconds"]
    try:
        seconds = float(_number(came) if isinstance(came, str) else came)
        if isinstance(came, bool) or not 0 < seconds <= 3600:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise InvalidField("seconds", came, "a number of seconds above 0, such as 5") from None
    least, step = int(limits.fields["num_frames"].minimum or 1), limits.fields["num_frames"].step
    return {"num_frames": max(least, step * round((seconds * fps - least) / step) + least)}
