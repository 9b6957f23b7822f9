"""Receivers of webhooks that never end, send much or speak no HTTP: they hold up nobody else."""

import asyncio
import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11
import psycopg
import pytest
from wan_t2v_gateway import webhooks
from wan_t2v_gateway.queue.tasks import DELIVERY_LANES

from tests.fakes.scripted_server import MADE, serving
from tests.unit.gateway.running import running_gateway
from tests.waiting import wait_until

Start = Callable[..., Any]
OK = b"HTTP/1.1 200 OK\r\n"
HEAD = OK + b"content-type: text/plain\r\n\r\n"
MOST_BUFFERED = 64 * 2**20  # by both ends of a loopback connection, with much to spare


@dataclass
class Receiver:
    """Sends `first`, and then `rest` again and again until the other end leaves or the test ends."""

    first: bytes
    rest: bytes
    pause_s: float
    tls: ssl.SSLContext | None = None
    url: str = ""
    requests: list[bytes] = field(default_factory=list)
    sent: int = 0
    left: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            self.requests.append(read_request(connection))
            connection.sendall(self.first)
            while self.rest and not self.over.wait(self.pause_s):
                self.sent += connection.send(self.rest)
        self.left.set()


def read_request(connection: socket.socket) -> bytes:
    """Read the whole request: a socket that is closed with unread bytes resets the connection."""
    request = b""
    while part := connection.recv(65536):
        request += part
        head, _, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length and len(body) >= int(length[1]):
            break
    return request


@contextmanager
def receiving(
    first: bytes, rest: bytes = b"", pause_s: float = 0.0, *, tls: ssl.SSLContext | None = None
) -> Iterator[Receiver]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/hook%20a?x=\u00e4 b"
    receiver = Receiver(first, rest, pause_s, tls, url)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=receiver.serve, args=[listener.accept()[0]], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield receiver
    finally:
        receiver.over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def post(receiver: Receiver) -> str:
    row = {"url": receiver.url, "id": "msg_1", "body": "{}"}
    return asyncio.run(webhooks.post(row, "127.0.0.1", "whsec_" + "A" * 32))


@pytest.mark.parametrize("head", [HEAD, OK + b"content-encoding: gzip\r\ncontent-length: 1000000000\r\n\r\n"])
def test_a_response_without_end_is_answered_by_its_head(head: bytes) -> None:
    with receiving(head, b"x" * 65536) as receiver:
        assert post(receiver) == "200"
        assert receiver.left.wait(120)
        assert receiver.sent < MOST_BUFFERED
    assert receiver.requests[0].startswith(b"POST /hook%20a?x=%C3%A4%20b HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("b\u00fccher.example", b"xn--bcher-kva.example"),
        ("B\u00dcCHER.example.", b"xn--bcher-kva.example."),
        ("Receiver.example", b"receiver.example"),
        ("[2606:4700:4700::1111]", b"[2606:4700:4700::1111]"),
    ],
)
def test_a_receiver_is_told_its_host_in_ascii_and_who_calls(host: str, sent: bytes) -> None:
    with receiving(HEAD) as receiver:
        port = receiver.url.rpartition(":")[2].partition("/")[0]
        receiver.url = f"http://{host}:{port}/h\u00f6r?x=\u00e4"
        assert post(receiver) == "200"
    (request,) = receiver.requests
    assert request.startswith(b"POST /h%C3%B6r?x=%C3%A4 HTTP/1.1\r\n")
    assert b"\r\nhost: " + sent + b":" + port.encode() + b"\r\n" in request
    assert b"\r\nuser-agent: wan-t2v-gateway\r\n" in request


def test_a_host_without_a_port_is_named_without_one() -> None:
    assert webhooks._host(urlsplit("https://b\u00fccher.example/x")) == "xn--bcher-kva.example"


def test_a_redirect_is_a_status_and_interim_responses_are_not() -> None:
    with receiving(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 302 Found\r\nlocation: http://10.0.0.1/\r\n\r\n"
    ) as receiver:
        assert post(receiver) == "302"


@pytest.mark.parametrize("head", [b"", b"SSH-2.0-x\r\n\r\n", OK + b"x: " + b"x" * 2**20])
def test_what_is_no_response_is_an_error(head: bytes) -> None:
    with receiving(head) as receiver, pytest.raises(h11.ProtocolError):
        post(receiver)


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """A context for receivers, with a certificate of `receiver.example` that this machine trusts."""
    pytest.importorskip("cryptography", reason="cryptography is not installed (gateway[marking])")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    _write_certificate("receiver.example", certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    webhooks._trust.cache_clear()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    yield context
    webhooks._trust.cache_clear()


def _write_certificate(name: str, certificate: Path, key: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, made.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    signed = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False).sign(
        made, hashes.SHA256()
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key.write_bytes(made.private_bytes(pem, pkcs8, serialization.NoEncryption()))


def test_a_receivers_certificate_must_be_of_its_name(tls: ssl.SSLContext) -> None:
    """Also where the endless response begins within TLS."""
    with receiving(HEAD, b"x" * 65536, tls=tls) as receiver:
        port = receiver.url.rpartition(":")[2].partition("/")[0]
        receiver.url = f"https://receiver.example:{port}/"
        assert post(receiver) == "200"
        receiver.url = f"https://other.example:{port}/"
        with pytest.raises(ssl.SSLCertVerificationError):
            post(receiver)


def test_a_head_without_end_fails_in_time(start: Start, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "_DELIVERY_S", 0.5)
    with serving(MADE) as server, receiving(OK, b"x", 0.05) as receiver:
        gateway = start(server_url=server.url, webhook_hosts=("127.0.0.1",))
        gateway.post(webhook_url=receiver.url)
        with psycopg.connect(database_url, autocommit=True) as database:
            results = "SELECT result FROM webhook_attempts"
            wait_until(lambda: database.execute(results).rowcount)
            assert database.execute(results).fetchone() == ("TimeoutError: no response within 0.5 s",)
        assert receiver.left.wait(60)


def test_receivers_that_hold_every_delivery_of_an_owner_delay_nothing_of_others_and_no_stop(
    database_url: str, tmp_path: Path, owner: Any
) -> None:
    """`running_gateway` fails if it does not stop."""
    settings = {"database_url": database_url, "data": tmp_path, "webhook_hosts": ("127.0.0.1",)}
    with (
        serving(MADE) as server,
        receiving(OK, b"x", 0.05) as held,
        receiving(HEAD) as receiver,
        running_gateway(**settings, server_url=server.url) as gateway,
    ):
        many, few = owner("many"), owner("few")

        def holds_every_delivery() -> bool:
            gateway.post(many, webhook_url=held.url)
            return len(held.requests) == DELIVERY_LANES

        wait_until(holds_every_delivery)
        gateway.post(few, webhook_url=receiver.url)
        wait_until(lambda: receiver.requests)
        assert len(held.requests) == DELIVERY_LANES
