"""Keys, limits, webhooks and retention."""

import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook
from wan_t2v_gateway.__main__ import main

from tests.fakes.scripted_server import MADE, Refusal, serving

Start = Callable[..., Any]


def keys(database_url: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints."""
    assert main(["--database-url", database_url, "keys", *arguments]) == 0
    return capsys.readouterr().out.strip()


def test_keys_are_made_limited_rotated_and_withdrawn(
    start: Start, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = start(workers=0)
    first = keys(database_url, capsys, "make", "anna", "--most-queued", "1")
    admin = keys(database_url, capsys, "make", "root", "--administrator")

    def status(key: str, method: str = "GET") -> int:
        bearer = {"authorization": f"Bearer {key}"}
        body = {"json": {"prompt": "x"}} if method == "POST" else {}
        return int(gateway.http.request(method, "/v1/videos", headers=bearer, **body).status_code)

    assert [status(first, "POST"), status(first, "POST"), status("wrong")] == [200, 429, 401]
    everything = gateway.http.get("/v1/videos", headers={"authorization": f"Bearer {admin}"}).json()["data"]
    assert len(everything) == 1
    second = keys(database_url, capsys, "make", "anna")
    assert [status(first), status(second)] == [401, 200]
    assert first not in keys(database_url, capsys, "list")
    keys(database_url, capsys, "withdraw", "anna")
    assert status(second) == 401


def test_without_a_key_only_this_machine_is_served(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--database-url", database_url, "--host", "0.0.0.0"]) == 2
    assert "no key was made" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="Postgres runs as its caller unless that is root")
def test_a_folder_that_postgres_cannot_enter_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o700)
    assert main(["--data", str(tmp_path), "usage"]) == 1
    assert f"{tmp_path}/database: Postgres does not run as root" in capsys.readouterr().err


class Receiver(HTTPServer):
    """Refuses the first delivery and takes the second."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.deliveries: list[tuple[dict[str, str], bytes]] = []
        self.done = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.deliveries.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(500 if len(self.server.deliveries) == 1 else 200)
        self.end_headers()
        if len(self.server.deliveries) == 2:
            self.server.done.set()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.mark.parametrize(("script", "kind"), [(MADE, "completed"), ((Refusal("INTERNAL", "broken"),), "failed")])
def test_a_webhook_is_signed_and_always_the_same(
    start: Start, database_url: str, capsys: pytest.CaptureFixture[str], script: Any, kind: str
) -> None:
    receiver = Receiver()
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    with serving(script) as server:
        gateway = start(server_url=server.url, webhook_hosts=("127.0.0.1",), webhook_retry_s=0.05, poll_s=0.05)
        video_id = gateway.post(webhook_url=f"http://127.0.0.1:{receiver.server_port}/hook?x=1")
        assert receiver.done.wait(20)
    receiver.shutdown()
    secret = keys(database_url, capsys, "secret", "local")
    for headers, body in receiver.deliveries:
        told = Webhook(secret).verify(body, headers)
        assert (told["type"], told["data"]["id"]) == (f"video.{kind}", video_id)
    assert len({(headers["webhook-id"], body) for headers, body in receiver.deliveries}) == 1


def test_a_webhook_to_this_machine_is_refused_unless_allowed(start: Start) -> None:
    answer = start(workers=0).http.post("/v1/videos", json={"prompt": "x", "webhook_url": "http://localhost:1/"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "webhook_url")


def test_what_is_too_old_goes_with_its_files(start: Start, tmp_path: Path) -> None:
    with serving(MADE) as server:
        gateway = start(server_url=server.url, keep_s=0.0, heartbeat_s=0.1)
        video_id = gateway.post()
        while gateway.http.get(f"/v1/videos/{video_id}").status_code != 404:
            pass
    assert not [path for path in (tmp_path / "files").rglob("*") if path.is_file()]


def test_the_oldest_of_too_much_goes_first(start: Start) -> None:
    with serving(MADE) as server:
        gateway = start(server_url=server.url, keep_bytes=10, heartbeat_s=0.1)
        first = gateway.post()
        gateway.until(first, "completed")
        second = gateway.post()
        while gateway.http.get(f"/v1/videos/{first}").status_code != 404:
            pass
        assert gateway.until(second, "completed")["progress"] == 100


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"host": "evil.example"}]
)
def test_another_sites_page_cannot_make_videos_here(start: Start, headers: dict[str, str]) -> None:
    answer = start(workers=0).http.post("/v1/videos", data={"prompt": "x"}, headers=headers)
    assert answer.status_code == 403
    assert ("let the site's server call, with a key" in answer.json()["error"]["message"]) == ("host" not in headers)


def test_the_page_needs_nothing_from_elsewhere(start: Start) -> None:
    gateway = start(workers=0)
    page = gateway.http.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("page.css", "main.js", "api.js", "card.js", "form.js"):
        asset = gateway.http.get(f"/page/{name}")
        assert asset.status_code == 200 and "http" not in asset.text
    assert gateway.http.get("/page/..%2Fapp.py").status_code == 404
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):  # FastAPI's own pages load scripts from elsewhere
        assert gateway.http.get(path).status_code == 404
    document = gateway.http.get("/openapi.json")
    assert 'href="openapi.json"' in page.text
    assert document.headers["content-security-policy"] == page.headers["content-security-policy"]
    assert gateway.http.get("/readyz").status_code == 503
    assert gateway.http.get("/openapi.json").json()["paths"]["/v1/videos"]["post"]["requestBody"]
