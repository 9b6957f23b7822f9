"""The limits of requests, as the server publishes them: `docs/use/request.md` explains the document."""

import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from wan_t2v_client.errors import ClientError, RequestRefused, ServerFault
from wan_t2v_client.fields import EncodedRequest
from wan_t2v_client.generation import UNREADABLE, unreadable

VERSION = 1
QUESTION = EncodedRequest([], {"limits": True})
_NOT_KNOWN = "limits: got an unknown field"  # error of a server that publishes no limits


@dataclass(frozen=True)
class FieldLimits:
    """Limits of one field.

    Attributes:
        type: `text`, `integer`, `number` or `array`.
        minimum, above, maximum: inclusive lower bound, exclusive lower bound, inclusive upper bound; None for none.
        step: distance between accepted integers, counted from `minimum`.
        choices: the accepted values; empty if the values are not a closed list.
        maximum_bytes, read_tokens: longest accepted text, and the number of its tokens that the model reads.
        default: value of a request without the field; None for one that has none, such as a seed, which is drawn.
    """

    type: str
    required: bool = False
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    step: int = 1
    choices: tuple[Any, ...] = ()
    maximum_bytes: int | None = None
    read_tokens: int | None = None
    unit: str = ""
    default: Any = None

    def accepts(self, value: Any) -> bool:
        """Whether the server accepts this value, apart from other fields. The value must have the field's type."""
        if self.choices:
            return value in self.choices
        if self.maximum_bytes is not None:
            return self._takes_text(str(value), most=self.maximum_bytes)
        if self.type not in ("integer", "number"):
            return True
        return self._is_in_range(value) and (self.step == 1 or (value - (self.minimum or 0)) % self.step == 0)

    def accepted(self) -> str:
        """Describe the accepted values in words."""
        if self.choices:
            return " or ".join(map(str, self.choices))
        if self.maximum_bytes is not None:
            return f"at most {self.maximum_bytes} bytes"
        parts = [
            *([] if self.minimum is None else [f"from {self.minimum}"]),
            *([] if self.above is None else [f"above {self.above:g}"]),
            *([] if self.maximum is None else [f"to {self.maximum}" if self.above is None else f"to {self.maximum:g}"]),
            *([] if self.step == 1 else [f"in steps of {self.step}"]),
        ]
        return " ".join(parts)

    def _takes_text(self, text: str, *, most: int) -> bool:
        """Whether a text is not too long, as it is and in the form in which the server reads it, and says something."""
        if self.required and not text.strip():
            return False
        try:
            return len(text.encode()) <= most and len(unicodedata.normalize("NFKC", text)) <= most
        except UnicodeEncodeError:  # half of a surrogate pair
            return False

    def _is_in_range(self, value: float) -> bool:
        least = -math.inf if self.minimum is None else self.minimum
        most = math.inf if self.maximum is None else self.maximum
        if self.type == "number":  # the client sends single precision, in which 0.01 is a little less
            value, least, most = map(_in_single_precision, (value, least, most))
            if not math.isfinite(value):
                return False
        return least <= value <= most and (self.above is None or value > self.above)


def _in_single_precision(value: float) -> float:
    """Round as the client does when it sends a number. One that is too large becomes infinite."""
    with np.errstate(over="ignore"):
        try:
            return float(np.float32(value))
        except OverflowError:  # an integer beyond double precision
            return math.inf


@dataclass(frozen=True)
class WorkLimits:
    """Limit on the work of one request, and the figures to compute the work."""

    maximum_token_passes: int
    pixels_per_token: int
    frames_per_latent: int
    guided_above: float

    def token_passes(self, settings: Mapping[str, Any]) -> int:
        """Compute the work of complete settings: transformer tokens times passes of the experts."""
        frames = (settings["num_frames"] - 1) // self.frames_per_latent + 1
        tokens = frames * (settings["height"] // self.pixels_per_token) * (settings["width"] // self.pixels_per_token)
        passes = 2 if settings["guidance_scale"] > self.guided_above else 1
        return int(tokens * settings["num_inference_steps"] * passes)


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        fields: limits of every field of a request, by name.
        sizes: served clips as (height, width, frames); if empty, the fields' ranges decide.
        work: limit on the work of one request.
        least_steps, exact_profiles: fewest steps for any step profile other than `exact_profiles`.
        document: the server's whole document, unchanged.
    """

    fields: Mapping[str, FieldLimits]
    sizes: tuple[tuple[int, int, int], ...]
    work: WorkLimits
    least_steps: int
    exact_profiles: tuple[str, ...]
    document: Mapping[str, Any] = field(repr=False)

    @property
    def defaults(self) -> dict[str, Any]:
        """Settings of a request without any field, as far as they are known before it is sent."""
        return {name: one.default for name, one in self.fields.items() if one.default is not None}

    @classmethod
    def parse(cls, document: Any) -> "Limits":
        """Parse the document. Raises ServerFault if this client cannot read it."""
        try:
            if document["version"] != VERSION:
                raise ServerFault(
                    f"the server publishes its limits in version {document['version']}, this client reads {VERSION}"
                )
            return cls(
                fields={str(name): _field_limits(entry) for name, entry in document["fields"].items()},
                sizes=tuple((one["height"], one["width"], one["num_frames"]) for one in document["sizes"]),
                work=WorkLimits(**{one.name: document["work"][one.name] for one in fields(WorkLimits)}),
                least_steps=document["step_profiles"]["least_steps"],
                exact_profiles=tuple(document["step_profiles"]["exact"]),
                document=document,
            )
        except UNREADABLE as error:
            raise unreadable(error) from None


def limits_from_answer(answer: Any) -> Limits:
    """Parse the endpoint's response. Raises ServerFault."""
    try:
        document = json.loads(answer.as_numpy("limits")[0])
    except UNREADABLE as error:
        raise unreadable(error) from None
    return Limits.parse(document)


def explain_refusal(error: ClientError) -> ClientError:
    """Replace the error of a server that does not know the parameter `limits` by one that explains it."""
    if _NOT_KNOWN in str(error):  # its stream errors have no code that this client reads
        return RequestRefused("the server publishes no limits: it is older than this client; update it")
    return error


def _field_limits(entry: Mapping[str, Any]) -> FieldLimits:
    """Parse the entries that this client knows; a newer server may send more."""
    known = {one.name: entry[one.name] for one in fields(FieldLimits) if one.name in entry}
    return FieldLimits(**{**known, "choices": tuple(known.get("choices", ()))})
