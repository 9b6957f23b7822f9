"""A job through the whole way: gateway, queue, worker, real server, stored file."""

import contextlib
import hashlib
import importlib.util
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wan_t2v_client import TextToVideo

from embedded.ports import free_ports
from embedded.server import Server
from tests.waiting import wait_until

if importlib.util.find_spec("procrastinate") is None or importlib.util.find_spec("openai") is None:
    pytest.skip("the gateway is not installed; `make test` does it", allow_module_level=True)

LIMIT_S = 300.0  # for a start of server and gateway, or a video, on a busy machine
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
    published = client.limits().document
    assert (limits["largest_size"], limits["most_frames"], limits["sizes"]) == ("256x256", 81, [])
    assert limits["fields"]["num_frames"] == published["fields"]["num_frames"] and limits["work"] == published["work"]
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


def test_what_the_server_does_not_accept_is_refused_at_the_field(gateway: Any) -> None:
    for field, body in {"width": {"size": "512x64"}, "step_profile": {"step_profile": "unheard_of"}}.items():
        answer = gateway.http.post("/v1/videos", json={"prompt": "x", **body})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that `nobody` may enter: as root, Postgres runs as that."""
    with tempfile.TemporaryDirectory(prefix="studio-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.nightly
def test_a_studio_that_is_stopped_in_the_middle_finishes_its_video_at_the_next_start(open_folder: Path) -> None:
    """Under the same id, after the last kept step, and with the bytes of an undisturbed run."""
    fields = {**SMALL, "prompt": "a red ball rolls left", "num_inference_steps": 40}
    with running_studio(open_folder / "data") as http:
        video_id = http.post("/v1/videos", json=fields).json()["id"]
        undisturbed = http.post("/v1/videos", json=fields).json()["id"]
        until(http, video_id, lambda video: video.get("now", {}).get("step", 0) >= 10)
    with running_studio(open_folder / "data") as http:
        video = until(http, video_id, lambda video: video["status"] in ("completed", "failed"))
        assert (video["status"], video["attempts"]) == ("completed", 2)
        steps = [line for line in http.get(f"/v1/videos/{video_id}/events").text.splitlines() if line == "event: step"]
        assert len(steps) < 2 * 40 - 5  # the second attempt did not begin at the first step
        assert until(http, undisturbed, lambda video: video["status"] == "completed")["attempts"] == 1
        first, second = (http.get(f"/v1/videos/{name}/content").content for name in (video_id, undisturbed))
        assert first == second


@contextlib.contextmanager
def running_studio(data: Path) -> Iterator[Any]:
    """As `make studio` starts it; stopped as by Ctrl-C."""
    import httpx

    (port,) = free_ports(1, "127.0.0.1")
    command = [sys.executable, "-m", "embedded.studio", "--port", str(port), "--data", str(data)]
    with (data.parent / "studio.log").open("ab") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:

            def is_ready() -> bool:
                assert process.poll() is None, (data.parent / "studio.log").read_text()
                with contextlib.suppress(httpx.TransportError):
                    return bool(http.get("/readyz").status_code == 200)
                return False

            wait_until(is_ready, LIMIT_S)
            yield http
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0


def until(http: Any, video_id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    video: dict[str, Any] = {}

    def look() -> bool:
        video.clear()
        video.update(http.get(f"/v1/videos/{video_id}").json())
        return holds(video)

    wait_until(look, LIMIT_S)
    return video
