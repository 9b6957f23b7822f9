"""A job through the whole way: gateway, queue, worker, real server, stored file."""

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wan_t2v_client import TextToVideo

from embedded.server import Server

if importlib.util.find_spec("procrastinate") is None or importlib.util.find_spec("openai") is None:
    pytest.skip("the gateway is not installed; `make test` does it", allow_module_level=True)

SMALL = {"num_inference_steps": 4, "num_frames": 5, "width": 64, "height": 64, "seed": 7, "preview_every": 1}


@pytest.fixture
def gateway(server: Server, tmp_path: Path) -> Iterator[Any]:
    from tests.unit.gateway.conftest import postgres_in_memory
    from tests.unit.gateway.running import running_gateway

    with (
        postgres_in_memory() as (url, _),
        running_gateway(database_url=url, data=tmp_path, server_url=server.grpc_url) as running,
    ):
        yield running


def test_a_job_becomes_the_same_video_that_the_endpoint_makes(gateway: Any, client: TextToVideo) -> None:
    assert gateway.http.get("/readyz").status_code == 200
    limits = gateway.http.get("/v1/models").json()["data"][0]["limits"]
    assert limits == {"largest_size": "256x256", "most_frames": 81, "sizes": []}
    video_id = gateway.post(prompt="a red ball rolls left", **SMALL)
    text = gateway.http.get(f"/v1/videos/{video_id}/events").text
    assert [line for line in text.splitlines() if line == "event: step"] == ["event: step"] * 4
    assert gateway.http.get(f"/v1/videos/{video_id}/preview").content.startswith(b"\x89PNG")
    video = gateway.until(video_id, "completed")
    content = gateway.http.get(f"/v1/videos/{video_id}/content").content
    assert content == client.generate("a red ball rolls left", **SMALL).video
    assert video["sha256"] == hashlib.sha256(content).hexdigest()
    assert (video["size"], video["seconds"]) == ("64x64", "0.3125")
    for variant in ("thumbnail", "spritesheet"):
        picture = gateway.http.get(f"/v1/videos/{video_id}/content", params={"variant": variant})
        assert picture.content.startswith(b"\x89PNG")


def test_what_the_server_refuses_fails_with_the_field(gateway: Any) -> None:
    answer = gateway.http.post("/v1/videos", json={"prompt": "x", "size": "512x64"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "width")
    error = gateway.until(gateway.post(width=60, height=64), "failed")["error"]
    assert (error["code"], error["param"]) == ("invalid_request", "width")
