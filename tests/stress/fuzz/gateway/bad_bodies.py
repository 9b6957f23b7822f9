"""Bodies with one kind of fault, as JSON and as both kinds of forms: translated bad requests to Triton, and more."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import numpy as np

from tests.stress.fuzz import bad_requests
from tests.stress.fuzz.bad_requests import ONLY_OVER_GRPC, Bad, request
from tests.stress.fuzz.gateway.calls import Call, Draw

CREATE = "/v1/videos"
BOUNDARY = "an-end-of-a-part"
FORMS = ("application/json", "multipart/form-data", "application/x-www-form-urlencoded")
Values = Mapping[str, list[Any]]  # texts and numbers, and bytes that are not UTF-8


def good(**changed: Any) -> dict[str, list[Any]]:
    """Return a small valid request with changed fields. None removes a field."""
    fields = {**_values(Bad(request())), **{name: [value] for name, value in changed.items()}}
    return {name: values for name, values in fields.items() if values != [None]}


def create(body: bytes, content_type: str, *, params: frozenset[str] = frozenset(), path: str = CREATE) -> Call:
    """Return a request for a video."""
    return Call("POST", path, (("Content-Type", content_type),), body, params)


def as_json(values: Values) -> bytes:
    """Encode values as one JSON object. Bytes that are not UTF-8 become half a surrogate pair, which JSON allows."""
    return json.dumps({name: _one(list(map(_json_value, each))) for name, each in values.items()}).encode()


def as_parts(values: Values) -> bytes:
    """Encode values as a multipart form with one part per value. A field without values becomes an empty text."""
    parts = [part(name, _bytes(value)) for name, each in values.items() for value in each or [""]]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def part(name: str, value: bytes, *, filename: str = "") -> bytes:
    """Encode one part of a multipart form."""
    named = name.encode(errors="surrogatepass").replace(b'"', b"%22")
    file = f'; filename="{filename}"' if filename else ""
    head = b'--%s\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'
    return head % (BOUNDARY.encode(), named, file.encode()) + value + b"\r\n"


def as_form(values: Values) -> bytes:
    """Encode values as a form in percent encoding."""
    pairs = [
        (name.encode(errors="surrogatepass"), _bytes(one)) for name, each in values.items() for one in each or [""]
    ]
    return urlencode(pairs).encode()


def written(values: Values, form: str, *, params: frozenset[str] = frozenset()) -> Call:
    """Return the request in one of the three forms."""
    body = {FORMS[0]: as_json, FORMS[1]: as_parts, FORMS[2]: as_form}[form](values)
    return create(body, f"{form}; boundary={BOUNDARY}" if form == FORMS[1] else form, params=params)


def _values(bad: Bad) -> dict[str, list[Any]]:
    """Return a bad request's tensors and parameters as lists, without types and shapes."""
    tensors = {name: tensor.array.reshape(-1).tolist() for name, tensor in bad.tensors.items()}
    return {name: list(map(_text, values)) for name, values in tensors.items()} | {
        name: [value] for name, value in bad.parameters.items()
    }


def _text(value: Any) -> Any:
    """Decode bytes that are UTF-8. Other values are returned unchanged."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def _json_value(value: Any) -> Any:
    return "\ud800" + base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _one(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode(errors="surrogatepass")


def _translated(draw: Callable[[np.random.Generator], Bad]) -> Draw:
    """Translate a bad request to Triton to a call of the gateway, which must blame a field that was changed."""

    def call(random: np.random.Generator) -> Call:
        values, right = _values(draw(random)), good()
        changed = {name[:64] for name in values.keys() | right.keys() if values.get(name) != right.get(name)}
        form = FORMS[0] if "latents" in values else any_of(*FORMS)(random)
        no_text = form != FORMS[0] and any(isinstance(one, bytes) for each in values.values() for one in each)
        return written(values, form, params=frozenset() if no_text else frozenset(changed))

    return call


def field(
    names: tuple[str, ...], draw: Callable[[np.random.Generator], Any], *, forms: tuple[str, ...] = FORMS
) -> Draw:
    """Return a class of requests in which one of these fields has a drawn value."""

    def call(random: np.random.Generator) -> Call:
        name = any_of(*names)(random)
        values = good(**{name: draw(random)}, **({"num_frames": None} if name == "seconds" else {}))
        if name == "size":
            values = {other: each for other, each in values.items() if other not in ("height", "width")}
        shown = name[:64].encode(errors="backslashreplace").decode()
        return written(values, any_of(*forms)(random), params=frozenset({shown, *DERIVED.get(name, ())}))

    return call


def any_of(*values: Any) -> Callable[[np.random.Generator], Any]:
    """Return a function that draws one of these values."""
    return lambda random: values[int(random.integers(len(values)))]


WHOLE = ("height", "width", "num_frames", "num_inference_steps", "seed", "fps", "preview_every")
DERIVED = {"seconds": ("num_frames",), "size": ("height", "width")}  # fields made of them have limits
NUMBERS = (*WHOLE, "guidance_scale", "guidance_scale_2", "flow_shift", "step_cache", "guidance_skip", "seconds")
TEXTS = ("prompt", "negative_prompt", "step_profile", "solver", "webhook_url")
ONLY_JSON = FORMS[:1]
ADDRESSES = (
    "ftp://8.8.8.8/", "javascript:alert(1)", "http://", "http://[::1", "http://user:word@8.8.8.8/", "http://[::1]/",
    "http://10.0.0.1/", "http://169.254.169.254/latest", "http://0/", "http://8.8.8.8:99999/", "//8.8.8.8/",
    "http://[::ffff:10.0.0.1]/", "http://[fe80::1]/", "http://2130706434/", "http://8.8.8.8/" + "x" * 3000, 5, True,
)  # fmt: skip
SIZES = (
    "64", "64x", "x64", "0x64", "-64x64", "64x64x1", "64X64", "\u0666\u0664x64", "1e2x64", "64 x 64", "64x64\n", 64, 6.4,
    "9" * 5000 + "x16", "None", "32x33",
)  # fmt: skip
ODD_NUMBERS = (
    "many",
    "0x10",
    "1_0",
    "\u0663",
    " 5",
    "5 ",
    "1,5",
    "",
    "--5",
    "1e",
    "nan",
    "inf",
    "-inf",
    "+5",
    ".5",
    "5.",
)
ONLY_THE_SERVER_KNOWS = {"unknown step profile"}  # the server publishes no profile names: the job fails with its error
TRANSLATED = {
    name: _translated(draw)
    for name, draw in bad_requests.CLASSES.items()
    if name not in ONLY_OVER_GRPC | ONLY_THE_SERVER_KNOWS
}  # fmt: skip
FIELDS: dict[str, Draw] = {
    "a boolean for a number": field(NUMBERS, any_of(True, False), forms=ONLY_JSON),
    "a text that spells no number": field(NUMBERS, any_of(*ODD_NUMBERS)),
    "a fraction for a whole number": field(WHOLE, lambda random: float(random.integers(1, 50)) + 0.5),
    "a number that no field holds": field(NUMBERS, any_of(10**400, -(10**400), 10**4000, 1e300, -1e300, -(2**63) - 1)),
    "an endless number": field(NUMBERS, lambda random: "9" * int(random.integers(4301, 100_000)), forms=FORMS[1:]),
    "a number for a text": field(TEXTS, any_of(5, 0.5, True, -1), forms=ONLY_JSON),
    "several values in one": field((*NUMBERS, *TEXTS, "size", "model"), any_of([1], [], {}, {"a": 1}), forms=ONLY_JSON),
    "a text that cannot be kept": field(TEXTS, any_of("a\0b", "\0"), forms=FORMS),
    "half a surrogate pair": field(TEXTS, any_of("a\udc00", "\ud83d ball"), forms=ONLY_JSON),
    "a name that does not exist": field(
        ("a\ud800b", "x" * 300, "__proto__", "prompt ", "Size", "seconds\0", "n_frames", "."),
        any_of(1),
        forms=ONLY_JSON,
    ),
    "size that is none": field(("size",), any_of(*SIZES)),
    "seconds out of range": field(("seconds",), any_of(0, -1, 3601, 1e300, -0.0, 3600.1)),
    "a clip longer than is served": field(("seconds",), any_of(100, 3600, 999.5)),
    "another model": field(("model",), any_of("sora-2", "", "wan", 5, "wan2.2-t2v ", "WAN2.2-T2V")),
    "what this model cannot do": field(
        ("input_reference", "image_reference", "video_reference", "latents", "output_type", "video_encoding", "n"),
        any_of("x", 2, "mp4"),
    ),
    "webhook to no public address": field(("webhook_url",), any_of(*ADDRESSES)),
}
