"""A gateway in a thread of the test, at a port of its own."""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from wan_t2v_gateway.app import gateway_app
from wan_t2v_gateway.connections import BoundedConnection
from wan_t2v_gateway.settings import Settings


@dataclass(frozen=True)
class RunningGateway:
    url: str
    http: httpx.Client

    def post(self, headers: dict[str, str] | None = None, **fields: Any) -> str:
        """A job's id."""
        answer = self.ask_for({"prompt": "a red ball", **fields}, headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def ask_for(self, fields: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
        """The answer; asked again while it is 503, which a database on a busy machine may cause."""
        named = {"idempotency-key": uuid.uuid4().hex, **(headers or {})}
        while (answer := self.http.post("/v1/videos", json=fields, headers=named)).status_code == 503:
            pass
        return answer

    def video(self, video_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/v1/videos/{video_id}").json())

    def until(self, video_id: str, *statuses: str) -> dict[str, Any]:
        """The video when it is in one of these states."""
        for _ in range(9000):
            video = self.video(video_id)
            if video.get("status") in statuses:
                return video
            time.sleep(0.02)
        raise AssertionError(f"not {statuses}: {video}")


@contextmanager
def running_gateway(*, open_access: bool = True, **settings: Any) -> Iterator[RunningGateway]:
    app = gateway_app(Settings(**settings), open_access=open_access)
    options: dict[str, Any] = {"log_level": "error", "timeout_graceful_shutdown": 1, "http": BoundedConnection}
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the gateway did not start"
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as http:
            yield RunningGateway(url, http)
    finally:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive(), "the gateway did not stop"
