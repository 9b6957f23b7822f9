"""Callers who send too much, too deep, too slowly, or who do not read: refused here, and unseen by the server behind."""

import contextlib
import json
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


def read_until(connection: socket.socket, expected: bytes) -> None:
    """Read on until this came; an answer may come in several pieces."""
    read = b""
    while expected not in read:
        part = connection.recv(65536)
        assert part, read
        read += part


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


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ("GET /v1/videos", b"200"),
        ("DELETE /v1/videos/none", b"404"),
        ("POST /none", b"404"),
        ("POST /v1/queue/pause", b"413"),
    ],
)
def test_a_body_without_end_is_cut_off_also_where_none_is_read(start: Start, call: str, status: bytes) -> None:
    """The answer comes first: it is there to be read by whoever stops sending."""
    with connect(start(workers=0)) as connection:
        connection.sendall(f"{call} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        sent, most = 0, 50 * BoundedConnection.rest_bytes
        with contextlib.suppress(OSError):
            while sent < most:
                connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536
        assert sent < most
        assert connection.recv(65536).startswith(b"HTTP/1.1 " + status)


def test_no_caller_has_more_than_a_little_read_at_a_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks of one byte even that is a lot of work, in which nobody else is served."""
    received, lengths = BoundedConnection.data_received, []

    def counted(self: BoundedConnection, data: bytes) -> None:
        lengths.append(len(data))
        received(self, data)

    monkeypatch.setattr(BoundedConnection, "data_received", counted)
    with connect(start(workers=0)) as connection:
        connection.sendall(CHUNKED + b"1\r\n \r\n" * 50_000 + b"0\r\n\r\n")
        read_until(connection, b" 400 ")
    assert sum(lengths) > 300_000 and max(lengths) == BoundedConnection.read_bytes


def test_the_rest_of_a_body_is_read_and_the_next_request_answered(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedConnection, "rest_s", 60.0)
    with connect(start(workers=0)) as connection:
        connection.sendall(CHUNKED.replace(b"/v1/videos", b"/none"))
        read_until(connection, b" 404 ")
        connection.sendall(b"3\r\nabc\r\n0\r\n\r\n" + b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        read_until(connection, b" 200 ")


@pytest.mark.parametrize(
    "begin", [b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\nX: " + b"x" * 2**20, HEAD + b"no colon\r\n\r\n"]
)
def test_what_is_no_http_is_told_so_in_the_shape_of_other_errors(
    start: Start, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(BoundedConnection, "rest_s", 60.0)  # a busy machine may be slow to send a megabyte
    with connect(start(workers=0)) as connection:
        connection.sendall(begin)
        told = answer(connection)
    assert told.startswith(b"HTTP/1.1 400 Bad Request")
    assert json.loads(told.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


def test_a_broken_body_in_the_middle_of_an_answer_ends_the_connection(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = start(workers=0)
    path = f"/v1/videos/{gateway.post()}/events"
    with connect(gateway) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        read_until(connection, b" 200 ")
        connection.sendall(b"no length\r\n")
        with contextlib.suppress(ConnectionResetError):
            answer(connection)
    told = [
        record
        for record in caplog.records
        if record.exc_info and record.name.startswith(("uvicorn", "wan_t2v_gateway"))
    ]
    assert not told


def test_a_byte_per_chunk_is_a_body_like_any_other(start: Start) -> None:
    with serving(MADE) as server, connect(start(server_url=server.url)) as connection:
        text = b'{"prompt": "a red ball"}'
        connection.sendall(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in text) + b"0\r\n\r\n")
        read_until(connection, b" 200 ")


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
