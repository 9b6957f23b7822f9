"""Bodies that are invalid as a whole: no JSON, broken forms, wrong content types and codings."""

import gzip
import json
import zlib

import numpy as np

from tests.stress.fuzz.gateway.bad_bodies import (
    BOUNDARY,
    FORMS,
    any_of,
    as_form,
    as_json,
    as_parts,
    create,
    good,
    part,
    written,
)
from tests.stress.fuzz.gateway.calls import Call, Draw

JSON, PARTS = FORMS[0], f"{FORMS[1]}; boundary={BOUNDARY}"
PROMPT = part("prompt", b"a red ball")
END = f"--{BOUNDARY}--\r\n".encode()
RIGHT = as_json(good())
NO_JSON = (
    b"{", b"nul", b"[1]", b'"a red ball"', b"5", b"{'prompt': 1}", b'{"prompt": "a",}', RIGHT + b"}", RIGHT * 2,
    RIGHT[:-1], b"\0" + RIGHT, b"{prompt: 1}", b'{"prompt": "a\nb"}', b'{"prompt": "\\x41"}', b"<xml/>", b"null", b"NaN",
)  # fmt: skip
TYPES = (
    "text/plain", "application/xml", "image/png", "application/json, application/json", "multipart/mixed; boundary=x",
    ";;;", "x" * 5000, "application/json; charset=utf-16", "application/json; charset=idna", "json", "*/*",
    "application/json; charset=undefined", "application/json; charset*" + "9" * 5000 + "=x", "application/jsonp",
    "application/json; charset*=a; charset*0=b", "multipart/form-data; boundary*=a; boundary*0=b",
)  # fmt: skip
FORM_TYPES = tuple(f"{PARTS}; charset={name}" for name in ("utf-7", "idna", "undefined", "hex", "latin-1", "x" * 300))
HEADS = (
    b"Content-Disposition: form-data", b"Content-Disposition: form-data; filename=x", b"X: y", b"", b"\xff\xfe: \xff",
    b"Content-Disposition", b'Content-Disposition: form-data; name="prompt', b"Content-Disposition: form-data; name=",
)  # fmt: skip
BOUNDARIES = ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=another",
              'multipart/form-data; boundary="', f"multipart/form-data; boundary={'x' * 3000}")  # fmt: skip


def raw(content_type: str, *bodies: bytes) -> Draw:
    """Return a class of requests with one of these bodies."""
    return lambda random: create(any_of(*bodies)(random), content_type)


def _cut(random: np.random.Generator) -> Call:
    """Cut a form at a random position before its end."""
    body = as_parts(good())
    return create(body[: int(random.integers(0, len(body) - 3))], PARTS)


def _nested(random: np.random.Generator) -> Call:
    depth = int(random.choice([50, 300, *range(900, 1000, 7), 5000, 40_000]))
    opened, closed = any_of(("[", "]"), ('{"a":', "}"))(random)
    inner = opened * depth + ("1" if opened != "[" else "") + closed * depth
    name = any_of("prompt", "seed", "size", "model", "seconds", "webhook_url", "other", "input_reference")(random)
    body = json.dumps({"prompt": "a red ball", name: 0}).replace(": 0}", f": {inner}}}")
    return create(body[: 200_000 if random.integers(2) else None].encode(), JSON)


def _twice(random: np.random.Generator) -> Call:
    """Send one name twice, which is ambiguous."""
    name = any_of("prompt", "seed", "size")(random)
    if random.integers(2):
        return create(b'{"prompt": "a red ball", ' + f'"{name}": "a", "{name}": "b"}}'.encode(), JSON)
    return written({**good(), name: ["a", "b"]}, any_of(*FORMS[1:])(random))


def _coded(random: np.random.Generator) -> Call:
    coding = any_of("gzip", "deflate", "br", "zstd", "gzip, gzip", "x" * 1000)(random)
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}.get(coding, bytes)
    return create(pack(RIGHT), JSON).with_header("Content-Encoding", coding)


def _other_encoding(random: np.random.Generator) -> Call:
    text = json.dumps({"prompt": "ein Bär"}, ensure_ascii=False)
    return create(text.encode(any_of("latin-1", "utf-16", "utf-32", "utf-16-be")(random)), JSON)


def _odd_part(random: np.random.Generator) -> Call:
    head = any_of(*HEADS)(random)
    return create(b"".join([PROMPT, b"--", BOUNDARY.encode(), b"\r\n", head, b"\r\n\r\nx\r\n", END]), PARTS)


def _file(random: np.random.Generator) -> Call:
    name = any_of("prompt", "input_reference", "seed", "model", "size", "webhook_url")(random)
    values = {other: each for other, each in good().items() if other != name}
    data = random.bytes(int(random.integers(1, 2000)))
    return create(part(name, data, filename="x.png") + as_parts(values), PARTS, params=frozenset({name}))


def _many(random: np.random.Generator) -> Call:
    number = int(random.integers(101, 3000))
    if random.integers(2):
        return create(part("prompt", b"") * number + END, PARTS)
    return create(b"&".join([b"prompt=a"] * number), FORMS[2])


def _drop_by_drop(random: np.random.Generator) -> Call:
    """Send a bad body in chunks of one byte."""
    draw: Draw = any_of(raw(JSON, *NO_JSON), _twice, _cut, _file)(random)
    return Call(**{**vars(draw(random)), "byte_chunks": True})


def _garbage(random: np.random.Generator) -> Call:
    kind = any_of(JSON, PARTS, FORMS[2])(random)
    return create(random.bytes(int(random.integers(1, 3000))), kind)


CLASSES: dict[str, Draw] = {
    "a body that is no JSON": raw(JSON, *NO_JSON),
    "JSON nested deep": _nested,
    "JSON that is not UTF-8": _other_encoding,
    "a name twice": _twice,
    "a content type that is none": lambda random: create(RIGHT, any_of(*TYPES)(random)),
    "a form in another charset": lambda random: create(as_parts(good()), any_of(*FORM_TYPES)(random)),
    "a content coding": _coded,
    "a form without a boundary": lambda random: create(as_parts(good()), any_of(*BOUNDARIES)(random)),
    "a form that is cut off": _cut,
    "a form with two ends": raw(PARTS, PROMPT + END + part("seed", b"1") + END),
    "a part without a name": _odd_part,
    "a file": _file,
    "a form of many fields": _many,
    "one form as another": lambda random: any_of(
        create(as_form(good()), PARTS), create(as_parts(good()), FORMS[2]), create(as_form(good()), JSON)
    )(random),
    "percent encoding of no text": raw(FORMS[2], b"prompt=%ff", b"prompt=a&seed=%C3", b"%fe=1&prompt=a"),
    "a bad body, a byte a chunk": _drop_by_drop,
    "bytes at random": _garbage,
}
