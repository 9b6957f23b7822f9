"""Abuses of HTTP against a gateway. Each connection must be ended by the gateway, with a fair answer or none."""

import contextlib
import itertools
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from tests.stress.fuzz.gateway.bad_bodies import BOUNDARY, CREATE, as_json, good, part
from tests.stress.fuzz.gateway.calls import BUSY, MOST_TRIES, fault_of_text
from tests.stress.fuzz.protocol_abuse import chunked, head, only, whole

ENDED_S = 120.0  # the slowest limit of the gateway, on a reader, is 60 s
PIECE = 2**16
DRIP_S = 0.5
RIGHT = as_json(good())
JSON, CHUNKED = "Content-Type: application/json", "Transfer-Encoding: chunked"
Pieces = Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class Abuse:
    """Bytes to send on one connection.

    Attributes:
        statuses: accepted statuses; "" is a connection that ends without an answer.
        ends: whether the sender shuts down its side of the connection after the bytes.
    """

    pieces: Pieces
    statuses: tuple[str, ...] = ("400",)
    ends: bool = False


def _endless(path: str, *headers: str, first: bytes = b"", method: str = "POST") -> Pieces:
    """Return an endless chunked body."""
    piece = b"%x\r\n%s\r\n" % (PIECE, b"x" * PIECE)
    begin = head(path, CHUNKED, *headers, method=method)
    return lambda: itertools.chain(
        [begin, b"%x\r\n%s\r\n" % (len(first), first) if first else b""], itertools.repeat(piece)
    )


def _dripping(begin: bytes, drops: Callable[[], Iterator[bytes]]) -> Pieces:
    def pieces() -> Iterator[bytes]:
        yield begin
        for drop in drops():
            time.sleep(DRIP_S)
            yield drop

    return pieces


def _one_byte_chunks() -> Iterator[bytes]:
    return itertools.repeat(b"1\r\n \r\n")


def _held(*pieces: bytes) -> Abuse:
    """Return an incomplete body, on which the gateway must give up after its limit."""
    return Abuse(only(*pieces), ("408",))


def abuses(done: str) -> dict[str, Abuse]:
    """Return the abuses by name. `done` is the id of a finished video."""
    json_head = partial(head, CREATE, JSON)
    form = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
    open_part = part("prompt", b"")[:-2]
    return {
        "a body without end to create": Abuse(_endless(CREATE, JSON), ("413",)),
        "a form without end to create": Abuse(_endless(CREATE, form, first=open_part), ("413",)),
        "a body without end to remix": Abuse(_endless(f"{CREATE}/{done}/remix", JSON), ("413",)),
        "a body without end to pause": Abuse(_endless("/v1/queue/pause", JSON), ("413",)),
        "a body without end to cancel": Abuse(_endless(f"{CREATE}/none/cancel", JSON), ("404",)),
        "a body without end to a list": Abuse(_endless(CREATE, method="GET"), ("200",)),
        "a body without end to delete": Abuse(_endless(f"{CREATE}/none", method="DELETE"), ("404",)),
        "a body without end to a health check": Abuse(_endless("/healthz", method="GET"), ("200",)),
        "a body without end to nothing": Abuse(_endless("/none"), ("404",)),
        "a body without end to events": Abuse(_endless(f"{CREATE}/{done}/events", method="GET"), ("200",)),
        "JSON nested 50,000 deep": Abuse(whole(CREATE, b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", JSON)),
        "300,000 chunks of one byte": Abuse(chunked(CREATE, b" ", 300_000), ("413",)),
        "gzip that is none": Abuse(whole(CREATE, b"\x1f\x8b" + b"x" * 1000, JSON, "Content-Encoding: gzip"), ("415",)),
        "half a body, then the end": Abuse(only(json_head("Content-Length: 1000"), RIGHT), ("",), ends=True),
        "half a body, held open": _held(json_head("Content-Length: 1000"), RIGHT),
        "half a chunk, held open": _held(json_head(CHUNKED), b"ffff\r\n" + RIGHT),
        "a chunk of 2^60 bytes": _held(json_head(CHUNKED), b"1000000000000000\r\nabc"),
        "a body that drips": Abuse(_dripping(json_head(CHUNKED), _one_byte_chunks), ("408",)),
        "half a head, held open": Abuse(only(head(CREATE)[:-20]), ("",)),
        "nothing, held open": Abuse(only(), ("",)),
        "a head that drips": Abuse(_dripping(head(CREATE)[:-2], lambda: itertools.repeat(b"X: 1\r\n")), ("",)),
        "a length below zero": Abuse(only(json_head("Content-Length: -1"), RIGHT)),
        "a length beyond all": Abuse(only(json_head("Content-Length: 18446744073709551615"), RIGHT), ("413",)),
        "a length that is no number": Abuse(only(json_head("Content-Length: many"), RIGHT)),
        "two lengths": Abuse(only(json_head("Content-Length: 5", f"Content-Length: {len(RIGHT)}"), RIGHT)),
        "a length and chunks": Abuse(only(json_head("Content-Length: 5", CHUNKED), b"0\r\n\r\n", RIGHT)),
        "a chunk's size that is no number": Abuse(only(json_head(CHUNKED), b"zz\r\nabc\r\n0\r\n\r\n")),
        "two hosts": Abuse(only(json_head("Host: other.example", f"Content-Length: {len(RIGHT)}"), RIGHT)),
        "a header of 1 MB": Abuse(only(head(CREATE, "X-Long: " + "x" * 2**20))),
        "100,000 headers": Abuse(only(head(CREATE, *(f"X-{index}: 1" for index in range(100_000))))),
        "a path of 1 MB": Abuse(only(head("/v1/" + "x" * 2**20, "Content-Length: 0"))),
        "bytes that are no HTTP": Abuse(only(bytes(range(256)) * 256)),
        "a greeting of TLS": Abuse(only(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)))),
        "an unknown method": Abuse(
            only(head(CREATE, "Content-Length: 0", "Connection: close", method="BREW")), ("405",)
        ),
        "500 bad requests at once": Abuse(only(head(f"{CREATE}?limit=0", method="GET") * 500)),
        "a reader who does not read": Abuse(
            lambda: itertools.repeat(head("/openapi.json", method="GET") * 100), ("200", "")
        ),
    }


def suffered(url: str, name: str, abuse: Abuse) -> str | None:
    """Commit an abuse, and retry while the gateway is busy. Returns the fault, if any."""
    for _ in range(MOST_TRIES):
        wrong = _once(url, abuse)
        if wrong is None or f" {BUSY} " not in wrong:
            break
    return None if wrong is None else f"{name}: {wrong}"


def _once(url: str, abuse: Abuse) -> str | None:
    """Send the bytes, and wait until the gateway ends the connection. Returns the fault, if any."""
    address, began = urlsplit(url), time.monotonic()
    told = b""
    with socket.create_connection((address.hostname, address.port), timeout=ENDED_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            _sent(connection, abuse, began + ENDED_S)
            while piece := connection.recv(PIECE):
                told += piece
        except TimeoutError:
            return f"after {ENDED_S:g} s the connection is still open; answered {told[:100]!r}"
        except OSError:  # the gateway closed the connection; its answer can still be read
            with contextlib.suppress(OSError):
                while piece := connection.recv(PIECE):
                    told += piece
    return _wrong(told, abuse)


def _sent(connection: socket.socket, abuse: Abuse, until: float) -> None:
    for piece in abuse.pieces():
        connection.sendall(piece)
        if time.monotonic() > until:
            raise TimeoutError
    if abuse.ends:
        connection.shutdown(socket.SHUT_WR)


def _wrong(told: bytes, abuse: Abuse) -> str | None:
    """Check that the first answer has an accepted status and, for an error, the right form. Returns the fault."""
    first = re.match(rb"HTTP/1\.1 (\d{3})[^\r]*\r\n(.*?)\r\n\r\n(.*)", told, re.DOTALL)
    status = first[1].decode() if first else ""
    if status not in abuse.statuses:
        return f"answered {told[:200]!r}"
    if first is None or not status.startswith("4"):
        return None
    length = re.search(rb"content-length: (\d+)", first[2])
    return fault_of_text(first[3][: int(length[1]) if length else None].decode(errors="replace"))
