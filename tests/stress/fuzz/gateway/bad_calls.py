"""Calls with faults outside the body: paths, methods, queries, headers, invalid ids and ids of other owners."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.stress.fuzz.gateway.bad_bodies import CREATE, FORMS, any_of, as_json, create, good
from tests.stress.fuzz.gateway.calls import Call, Draw

RIGHT = as_json(good())
JSON = (("Content-Type", FORMS[0]),)
ROUTES: tuple[tuple[str, str], ...] = (
    ("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/remix"), ("GET", "/content"), ("GET", "/events"),
    ("GET", "/preview"), ("GET", "/content?variant=thumbnail"),
)  # fmt: skip
IDS = (
    "video_" + "0" * 24, "0", "-1", "x" * 5000, "%00", "%ff", "a%00b", "%F0%9F%98%80", "%ED%A0%80", "null", "*", "..",
    "%27;DROP%20TABLE%20videos;--", "video_%D9%A3", "%25s", "{video_id}", "video_" + "f" * 24,
)  # fmt: skip
PATHS = (
    "/v2/health/live", "/v1/videos/x/y", "/v1", "/page/..%2fapp.py", "/page/" + "x" * 300 + ".js", "/page/%00.js", "/*",
    "/docs", "/.env", "/page/.js", "/v1/queue/stop", "/metrics/x", "http://other.example/v1/videos", "/" + "a/" * 5000,
)  # fmt: skip
METHODS = ("PUT", "PATCH", "BREW", "TRACE", "PROPFIND", "OPTIONS", "get", "M" * 1000)
QUERIES: dict[str, tuple[str, ...]] = {
    "limit": ("0", "-1", "101", "x", "1e9", "", "9" * 400, "1.5", "%00", "NaN", "1%3B"),
    "order": ("", "up", "DESC", "asc,desc", "%00", "x" * 5000),
    "status": ("", "done", "Completed", "%ff", "queued,failed"),
    "after": ("x", "", "video_0", "%00", "x" * 5000, "%F0%9F%98%80", "*"),
}
HEADERS: dict[str, tuple[str, ...]] = {
    "Idempotency-Key": ("", "k" * 256, "k" * 20_000),
    "Last-Event-ID": ("-1", "x", "1e3", "9" * 19, "\xb2", "0x1", "", "1 2", "9" * 9000),
}
STRANGERS: tuple[tuple[str, str], ...] = (
    ("Origin", "http://["), ("Origin", "null"), ("Origin", "http://other.example"), ("Origin", "x" * 3000),
    ("Host", "[::1"), ("Host", "other.example"), ("Host", ""), ("Host", "127.0.0.1.other.example"), ("Host", "]["),
    ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Site", "x"),
)  # fmt: skip
RANGES_BEYOND = ("bytes=999999999-", "bytes=-0", "bytes=5-2", "bytes=99999999999999999-")
RANGES_OF_NOTHING = (
    "bytes=a-b",
    "lines=0-1",
    "bytes=0-1,3-4",
    "bytes=--5",
    "bytes=-",
    "x" * 5000,
    "bytes=" + "9" * 5000,
)
REASONS = (
    b"{", b"[]", b'{"reason": 5}', b'{"reason": {"a": 1}}', b'{"reason": "' + b"x" * 501 + b'"}', b'{"why": "x"}', b"5",
    b'{"reason": "a", "reason": "b"}', b'{"reason": "\xff"}', b"[" * 100_000,
)  # fmt: skip
KEYS = ("", "Bearer", "Bearer ", "Bearer x", "Basic YTpi", "Bearer " + "x" * 5000, "bearer \xff", "Bearer wan_", "x")


def on_id(method: str, video_id: str, rest: str) -> Call:
    """Return a call of one of a video's routes. A remix has a valid body."""
    body = b'{"prompt": "a blue ball"}' if rest == "/remix" else None
    return Call(method, f"{CREATE}/{video_id}{rest}", JSON if body else (), body)


def _ids(random: np.random.Generator) -> Call:
    method, rest = any_of(*ROUTES)(random)
    return on_id(method, any_of(*IDS)(random), rest)


def _queries(random: np.random.Generator) -> Call:
    name = any_of(*QUERIES)(random)
    return Call("GET", f"{CREATE}?{name}={any_of(*QUERIES[name])(random)}", params=frozenset({name}) - {"after"})


def _methods(random: np.random.Generator) -> Call:
    path = any_of(CREATE, f"{CREATE}/x", "/v1/models", "/healthz", "/", "/v1/queue", "/metrics", "/openapi.json")(
        random
    )
    return Call(any_of(*METHODS)(random), path, JSON, RIGHT)


def _keys(random: np.random.Generator) -> Call:
    key = any_of(*HEADERS["Idempotency-Key"])(random)
    return create(RIGHT, FORMS[0], params=frozenset({"Idempotency-Key"})).with_header("Idempotency-Key", key)


def _long_head(random: np.random.Generator) -> Call:
    length = int(random.integers(66_000, 200_000))
    name = any_of("X-Long", "Cookie", "Authorization", "Idempotency-Key", "Content-Type")(random)
    return Call("GET", f"{CREATE}?limit=0", ((name, "x" * length),))  # limit=0: refused also if the head is accepted


def _strangers(random: np.random.Generator) -> Call:
    name, value = any_of(*STRANGERS)(random)
    call: Call = any_of(create(RIGHT, FORMS[0]), Call("GET", CREATE), Call("POST", "/v1/queue/pause"))(random)
    return call.with_header(name, value)


def _reasons(random: np.random.Generator) -> Call:
    return create(any_of(*REASONS)(random), FORMS[0], path="/v1/queue/pause")


def classes(done: str) -> dict[str, Draw]:
    """Return the classes for a gateway without keys. `done` is the id of a finished video."""

    def header(name: str, path: str, *values: str, fine: tuple[int, ...] = ()) -> Draw:
        return lambda random: Call("GET", path, ((name, any_of(*values)(random)),), fine=fine)

    content = f"{CREATE}/{done}/content"
    return {
        "an id that is none": _ids,
        "a path that is none": lambda random: Call("GET", any_of(*PATHS)(random)),
        "a method that is none": _methods,
        "a query that is none": _queries,
        "a variant that is none": lambda random: Call("GET", f"{content}?variant={any_of('', 'gif', '%00')(random)}"),
        "Idempotency-Key that is none": _keys,
        "Last-Event-ID that is none": header("Last-Event-ID", f"{CREATE}/{done}/events", *HEADERS["Last-Event-ID"]),
        "Range beyond the file": header("Range", content, *RANGES_BEYOND),
        "Range that is none": header("Range", content, *RANGES_OF_NOTHING, fine=(200, 206)),
        "a head that is too long": _long_head,
        "another site's page": _strangers,
        "a pause without a reason that is one": _reasons,
    }


def classes_of_strangers(done: str, key: str) -> dict[str, Draw]:
    """Return the classes for a gateway with keys: calls without a key, and calls for another owner's video."""
    bearer = ("Authorization", f"Bearer {key}")

    def signed(call: Callable[[np.random.Generator], Call]) -> Draw:
        return lambda random: call(random).with_header(*bearer)

    def keyless(random: np.random.Generator) -> Call:
        ways: tuple[Any, ...] = (
            create(RIGHT, FORMS[0]), Call("GET", CREATE), Call("GET", "/v1/models"), Call("GET", "/v1/usage"),
            Call("POST", "/v1/queue/pause", JSON, REASONS[-1]), *(on_id(method, done, rest) for method, rest in ROUTES),
        )  # fmt: skip
        call: Call = any_of(*ways)(random)
        value = any_of(*KEYS)(random)
        return call.with_header("Authorization", value) if value else call

    return {
        "no key, or one that is none": keyless,
        "an id of another's": signed(lambda random: on_id(*_around(done, any_of(*ROUTES)(random)))),
        "after an id of another's": signed(lambda random: Call("GET", f"{CREATE}?after={done}")),
        "a pause by no administrator": signed(lambda random: create(b"{}", FORMS[0], path="/v1/queue/pause")),
        "an id that is none, with a key": signed(_ids),
    }


def _around(video_id: str, route: tuple[str, str]) -> tuple[str, str, str]:
    return route[0], video_id, route[1]
