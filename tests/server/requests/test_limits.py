"""The limits that the server publishes are those that it holds requests to, at each edge; no video is made for it."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from wan_t2v_client import RequestRefused, TextToVideo
from wan_t2v_client.limits import FieldLimits, Limits

from embedded.server import Server

SMALL = {"prompt": "x", "height": 16, "width": 16, "num_frames": 1, "num_inference_steps": 16}
# Checked last: who is refused for it has passed everything else.
WRONG_LATENTS = np.zeros((1, 16, 1, 1, 1), np.float32)


def refused_field(client: TextToVideo, fields: dict[str, Any]) -> str:
    with pytest.raises(RequestRefused) as refusal:
        client.generate(**{**SMALL, "latents": WRONG_LATENTS, **fields})
    return str(refusal.value).partition(":")[0]


def right_values(one: FieldLimits) -> Iterator[Any]:
    yield from one.choices
    yield from (value for value in (one.minimum, one.maximum, one.default) if value is not None)
    if one.above is not None:
        yield np.nextafter(np.float32(one.above), np.float32(1)).item()
    if one.maximum_bytes is not None:
        yield "x" * one.maximum_bytes


def wrong_values(one: FieldLimits) -> Iterator[Any]:
    if one.choices and one.type == "text":
        yield f"{one.choices[0]}x"
    yield from (value - one.step for value in [one.minimum] if value is not None)
    yield from (value + one.step for value in [one.maximum] if value is not None and value < 2**31)
    yield from (value for value in [one.above] if value is not None)
    if one.step > 1:
        yield (one.minimum or 0) + 1
    if one.maximum_bytes is not None:
        yield "x" * (one.maximum_bytes + 1)


def test_each_edge_is_where_the_server_says(client: TextToVideo) -> None:
    tried = set()
    for name, one in client.limits().fields.items():
        for value in right_values(one):
            assert refused_field(client, {name: value}) == "latents", (name, value)
        for value in wrong_values(one):
            tried.add(name)
            assert refused_field(client, {name: value}) == name, (name, value)
    assert tried >= {"prompt", "height", "width", "num_frames", "num_inference_steps", "flow_shift", "solver", "seed"}


def test_work_ends_where_the_server_says(client: TextToVideo) -> None:
    limits = client.limits()
    largest = {name: limits.fields[name].maximum for name in ("height", "width", "num_frames")}
    settings = {**largest, "num_inference_steps": 1, "guidance_scale": 4.0}
    steps = limits.work.maximum_token_passes // limits.work.token_passes(settings)
    assert refused_field(client, {**settings, "num_inference_steps": steps}) == "latents"
    assert refused_field(client, {**settings, "num_inference_steps": steps + 1}) == "num_inference_steps"


def test_profiles_need_the_steps_that_the_server_says(client: TextToVideo) -> None:
    limits = client.limits()
    for name in limits.fields["step_profile"].choices:
        few = {"step_profile": name, "num_inference_steps": limits.least_steps - 1}
        assert (refused_field(client, few) == "latents") == (name in limits.exact_profiles)


def test_the_answer_has_the_documented_schema_over_http_too(server: Server, client: TextToVideo, root: Path) -> None:
    url = f"{server.http_url}/v2/models/text_to_video_stream/generate_stream"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps({"limits": True}).encode())) as answer:
        (line,) = (line for line in answer.read().decode().splitlines() if line)
    document = json.loads(json.loads(line.removeprefix("data: "))["limits"])
    jsonschema.validate(document, json.loads((root / "docs/use/limits.schema.json").read_text(encoding="utf-8")))
    assert Limits.parse(document) == client.limits()
    assert document["requests"]["in_flight"] >= 1


def test_limits_and_fields_do_not_go_together(server: Server) -> None:
    url = f"{server.http_url}/v2/models/text_to_video_stream/generate_stream"
    body = json.dumps({"limits": True, "prompt": "x"}).encode()
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(urllib.request.Request(url, body))
    assert b"limits: got true with prompt; accepted: true in a request without any field" in refusal.value.read()
