"""Calls to a server on this machine: whatever it answers they end in time, and no proxy is asked."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wan_t2v.operate.own_server import LOOPBACK, MOST_BYTES, http_get, http_status, without_proxy

LIMIT_S = 0.5


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers by path: `/<bytes>` has a body of that size, and the other two come byte by byte for many seconds."""

    def do_GET(self) -> None:
        if self.path != "/slow-header":
            self.send_response(200)
            self.end_headers()
        if self.path.startswith("/slow"):
            for _ in range(300):
                self.wfile.write(b" ")
                time.sleep(0.02)
        else:
            self.wfile.write(b" " * int(self.path[1:]))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("ask", "path"), [(http_get, "/slow-body"), (http_get, "/slow-header"), (http_status, "/slow-header")]
)
def test_an_answer_that_comes_byte_by_byte_takes_no_longer_than_the_limit(
    ask: Callable[..., Any], path: str, url: str
) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        ask(url + path, timeout_s=LIMIT_S)
    assert time.monotonic() - began < LIMIT_S + 2


def test_a_status_is_told_before_its_body_is_there(url: str) -> None:
    assert http_status(f"{url}/slow-body", timeout_s=LIMIT_S) == 200


def test_an_answer_of_any_usual_length_is_read_and_a_longer_one_is_refused(url: str) -> None:
    assert http_get(f"{url}/{MOST_BYTES}", timeout_s=30) == (200, b" " * MOST_BYTES)
    with pytest.raises(ConnectionError, match="more than 1048576 bytes"):
        http_get(f"{url}/{MOST_BYTES + 1}", timeout_s=30)


@pytest.mark.parametrize(
    ("given", "excepted"),
    [
        ({}, []),
        ({"no_proxy": "a.example, b.example"}, ["a.example", "b.example"]),
        ({"NO_PROXY": "a.example"}, ["a.example"]),
        ({"no_proxy": "a.example", "NO_PROXY": "b.example,localhost"}, ["a.example", "b.example", "localhost"]),
        ({"no_proxy": ""}, []),
    ],
)
def test_this_machine_is_added_to_what_needs_no_proxy(given: dict[str, str], excepted: list[str]) -> None:
    changed = without_proxy({"http_proxy": "http://proxy.example:3128", **given})
    expected = ",".join(dict.fromkeys([*excepted, *LOOPBACK]))
    assert changed == {"http_proxy": "http://proxy.example:3128", "no_proxy": expected, "NO_PROXY": expected}


def test_what_grpc_reads_first_has_them_too() -> None:
    assert without_proxy({"no_grpc_proxy": "a.example"})["no_grpc_proxy"].split(",") == ["a.example", *LOOPBACK]
