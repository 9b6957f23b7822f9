"""Callers who send too much, too deep, too slowly, or who do not read: refused here, and unseen by the server behind."""

import contextlib
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from wan_t2v_gateway.api import body
from wan_t2v_gateway.connections import BoundedConnection

from tests.fakes.scripted_server import MADE, Video, serving

Start = Callable[..., Any]
HEAD = b"POST /v1/videos HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


def connect(gateway: Any) -> socket.socket:
    address = urlsplit(gateway.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def is_open_there(connection: socket.socket) -> bool:
    """Whether the gateway, which is in this process, still has its end."""
    here, there = connection.getsockname()[1], connection.getpeername()[1]
    ends = psutil.Process().net_connections("tcp4")
    return any(end.laddr.port == there and end.raddr and end.raddr.port == here for end in ends)


def answer(connection: socket.socket) -> bytes:
    """All of it, until the gateway closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_a_body_without_end_is_cut_off(start: Start) -> None:
    with serving(MADE) as server:
        gateway = start(server_url=server.url)
        with connect(gateway) as connection:
            connection.sendall(CHUNKED)
            sent = 0
            with contextlib.suppress(OSError):  # refused, and closed while more was on its way
                while sent < 100 * body.LARGEST_BODY:
                    connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                    sent += 4096
        assert sent < 100 * body.LARGEST_BODY
        assert not server.requests


def test_a_byte_per_chunk_is_a_body_like_any_other(start: Start) -> None:
    with serving(MADE) as server, connect(start(server_url=server.url)) as connection:
        text = b'{"prompt": "a red ball"}'
        connection.sendall(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in text) + b"0\r\n\r\n")
        assert b" 200 " in connection.recv(65536)


def test_a_body_that_never_ends_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "SLOWEST_BODY_S", 0.2)
    with connect(start(workers=0)) as connection:
        connection.sendall(CHUNKED + b"1\r\n{\r\n")
        told = answer(connection)
    assert b" 408 " in told and b"did not come within 0.2 seconds" in told


@pytest.mark.parametrize("begin", [b"", b"POST /v1/videos HTTP/1.1\r\nhost: local"])
def test_a_head_that_never_ends_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch, begin: bytes) -> None:
    monkeypatch.setattr(BoundedConnection, "head_s", 0.2)
    with connect(start(workers=0)) as connection:
        connection.sendall(begin)
        with contextlib.suppress(ConnectionResetError):
            assert answer(connection) == b""


def test_who_does_not_read_a_video_is_left(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway keeps no more than a part of it for them, and not for long."""
    monkeypatch.setattr(BoundedConnection, "reader_s", 0.3)
    large = 32 * 2**20
    with serving((Video(b"x" * large),), options=[("grpc.max_send_message_length", -1)]) as server:
        gateway = start(server_url=server.url)
        video_id = gateway.post()
        gateway.until(video_id, "completed")
        with connect(gateway) as connection:
            connection.sendall(f"GET /v1/videos/{video_id}/content HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            received = len(connection.recv(1000))
            while is_open_there(connection):
                pass
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(2**20):
                    received += len(part)
        assert received < large


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"prompt":' * 20_000, '{"prompt": {"a": {"b": 1}}}', '{"seed": ' + "9" * 5000]
)
def test_nested_and_endless_values_are_refused(start: Start, text: str) -> None:
    with serving(MADE) as server:
        gateway = start(server_url=server.url)
        for kind in ("application/json", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
            answered = gateway.http.post("/v1/videos", content=text, headers={"content-type": kind})
            assert answered.status_code == 400, answered.text
        assert not server.requests


@pytest.mark.parametrize("parts", [1000, 200_000])
def test_a_form_of_many_parts_is_refused(start: Start, parts: int) -> None:
    part = '--x\r\ncontent-disposition: form-data; name="p"\r\n\r\n\r\n'
    content = (part * parts)[:250_000] + "--x--\r\n"
    gateway = start(workers=0)
    answered = gateway.http.post(
        "/v1/videos", content=content, headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert answered.status_code == 400
