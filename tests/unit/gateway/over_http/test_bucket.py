"""Files in a bucket: a small stand-in that speaks as much of S3 as the store asks for."""

import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from wan_t2v_gateway.__main__ import main

from tests.fakes.scripted_server import MADE, VIDEO, serving

Start = Callable[..., Any]


class Bucket(ThreadingHTTPServer):
    """Keeps what is put. While `full`, it refuses to; while `unreadable`, it refuses to give it back."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.files: dict[str, bytes] = {}
        self.full = self.unreadable = False


class Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        if self.server.full:
            return self.tell(507, b"<Error><Code>InsufficientStorage</Code></Error>")
        self.server.files[urlsplit(self.path).path] = data
        return self.tell(200, b"")

    def do_GET(self) -> None:
        if self.server.unreadable and self.command == "GET":
            return self.tell(403, b"<Error><Code>AccessDenied</Code></Error>")
        data = self.server.files.get(urlsplit(self.path).path)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if data is None or wanted is None:
            return self.tell(404 if data is None else 200, data or b"")
        start, last = int(wanted[1]), int(wanted[2])
        return self.tell(206, data[start : last + 1], **{"content-range": f"bytes {start}-{last}/{len(data)}"})

    do_HEAD = do_GET

    def tell(self, status: int, data: bytes, **more: str) -> None:
        self.send_response(status)
        fixed = {"content-length": str(len(data)), "etag": '"x"', "last-modified": "Sat, 28 Nov 2026 12:00:00 GMT"}
        for name, value in (fixed | more).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with Bucket() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{found.server_port}"
        settings = {
            "ENDPOINT": address,
            "ACCESS_KEY_ID": "a",
            "SECRET_ACCESS_KEY": "b",
            "REGION": "x",
            "ALLOW_HTTP": "1",
        }
        for name, value in settings.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield found
        found.shutdown()


def test_content_is_fetched_from_the_bucket_by_a_signed_address(start: Start, bucket: Bucket) -> None:
    with serving(MADE) as server:
        gateway = start(server_url=server.url, store_url="s3://videos", redirect_s=60.0)
        video_id = gateway.post()
        gateway.until(video_id, "completed")
    answer = gateway.http.get(f"/v1/videos/{video_id}/content")
    address = urlsplit(answer.headers["location"])
    signed = parse_qs(address.query)
    assert (answer.status_code, answer.headers["cache-control"]) == (307, "no-store")
    assert address.path == f"/videos/{video_id}/1/video.mp4"
    assert signed["X-Amz-Expires"] == ["60"] and signed["X-Amz-Signature"]
    assert httpx.get(answer.headers["location"], trust_env=False).content == VIDEO
    through = gateway.http.get(f"/v1/videos/{video_id}/content", params={"redirect": "false"})
    assert (through.status_code, through.content) == (200, VIDEO)


def test_a_bucket_that_is_full_is_waited_for(start: Start, bucket: Bucket) -> None:
    bucket.full = True
    with serving(MADE) as server:
        gateway = start(server_url=server.url, store_url="s3://videos", retry_s=0.05, poll_s=0.05)
        video_id = gateway.post()
        while len(server.requests) < 2:
            pass
        bucket.full = False
        attempts = gateway.until(video_id, "completed")["attempts"]
        assert attempts >= 2
    assert bucket.files[f"/videos/{video_id}/{attempts}/video.mp4"] == VIDEO


def test_a_bucket_that_returns_no_file_is_a_503_and_no_broken_answer(start: Start, bucket: Bucket) -> None:
    with serving(MADE) as server:
        gateway = start(server_url=server.url, store_url="s3://videos")
        video_id = gateway.post()
        gateway.until(video_id, "completed")
    bucket.unreadable = True
    answer = gateway.http.get(f"/v1/videos/{video_id}/content")
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert "the store does not return a file" in answer.json()["error"]["message"]
    bucket.unreadable = False
    assert gateway.http.get(f"/v1/videos/{video_id}/content").content == VIDEO


def test_a_folder_has_no_addresses_to_redirect_to(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--redirects", "60"])
    assert "--redirects: files in a folder have no address" in capsys.readouterr().err
