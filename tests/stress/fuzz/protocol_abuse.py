"""Abuses of HTTP against Triton: bodies that nest, decompress, end early or have a wrong length, and bad heads."""

import contextlib
import gzip
import itertools
import json
import socket
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from wan_t2v_client import ClientError, Connection, TextToVideo

from embedded.errors import ServerError
from embedded.server import Server

UNARY_PATH, STREAM_PATH = "/v2/models/text_to_video/generate", "/v2/models/text_to_video_stream/generate_stream"
INFER_PATH = "/v2/models/text_to_video/infer"
GOOD = {"height": 32, "width": 32, "num_frames": 1, "num_inference_steps": 1, "seed": 1}
FORM_BYTES, NESTED, ONE_BYTE_CHUNKS, UNPACKED_BYTES = 5 * 2**20, 50_000, 520_000, 256 * 2**20
SEND_LIMIT_S, READ_LIMIT_S, SERVED_LIMIT_S = 60.0, 10.0, 180.0
PIECE = 2**16


@dataclass(frozen=True)
class Abuse:
    """Bytes to send on one connection, which stays open while others are served.

    Attributes:
        whole: whether the message is complete, so that an answer is awaited first.
        ends: whether the sender shuts down its side of the connection after the bytes.
    """

    pieces: Callable[[], Iterator[bytes]]
    whole: bool = True
    ends: bool = False


def head(path: str, *headers: str, method: str = "POST") -> bytes:
    """Encode the head of a request."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", "")).encode()


def whole(path: str, body: bytes, *headers: str) -> Callable[[], Iterator[bytes]]:
    """Return a request with the correct Content-Length."""
    return lambda: itertools.chain([head(path, *headers, f"Content-Length: {len(body)}")], [body])


def chunked(path: str, chunk: bytes, times: int) -> Callable[[], Iterator[bytes]]:
    """Return a chunked body with `times` chunks, sent in few writes."""
    at_once = 4096

    def pieces() -> Iterator[bytes]:
        yield head(path, "Transfer-Encoding: chunked", "Content-Type: application/json")
        for begun in range(0, times, at_once):
            yield (b"%x\r\n%s\r\n" % (len(chunk), chunk)) * min(at_once, times - begun)
        yield b"0\r\n\r\n"

    return pieces


def only(*pieces: bytes) -> Callable[[], Iterator[bytes]]:
    """Return exactly these bytes."""
    return lambda: iter(pieces)


def _nested(path: str) -> Callable[[], Iterator[bytes]]:
    body = b'{"prompt": ' + b"[" * NESTED + b"]" * NESTED + b"}"
    return whole(path, body, "Content-Type: application/json")


def _packed(path: str, form: str) -> Callable[[], Iterator[bytes]]:
    """Return a compression bomb, which decompresses to a thousand times its size."""

    def pieces() -> Iterator[bytes]:
        blank = b" " * UNPACKED_BYTES
        body = gzip.compress(blank, 9) if form == "gzip" else zlib.compress(blank, 9)
        yield from whole(path, body, f"Content-Encoding: {form}", "Content-Type: application/json")()

    return pieces


_BODY = json.dumps({"prompt": "a red ball", **GOOD}).encode()
_FORM = "Content-Type: application/x-www-form-urlencoded"

ABUSES: dict[str, Abuse] = {
    "a form of 5 MB to generate": Abuse(whole(UNARY_PATH, b"a" * FORM_BYTES, _FORM)),
    "a form of 5 MB to infer": Abuse(whole(INFER_PATH, b"a" * FORM_BYTES, _FORM)),
    "a form of 5 MB to the health check": Abuse(whole("/v2/health/live", b"a" * FORM_BYTES, _FORM)),
    "JSON nested 50,000 deep to generate": Abuse(_nested(UNARY_PATH)),
    "JSON nested 50,000 deep to infer": Abuse(_nested(INFER_PATH)),
    "JSON nested 50,000 deep to generate_stream": Abuse(_nested(STREAM_PATH)),
    "520,000 chunks of one byte to generate": Abuse(chunked(UNARY_PATH, b" ", ONE_BYTE_CHUNKS)),
    "520,000 chunks of one byte to infer": Abuse(chunked(INFER_PATH, b" ", ONE_BYTE_CHUNKS)),
    "gzip of 256 MiB to generate": Abuse(_packed(UNARY_PATH, "gzip")),
    "gzip of 256 MiB to infer": Abuse(_packed(INFER_PATH, "gzip")),
    "deflate of 256 MiB to infer": Abuse(_packed(INFER_PATH, "deflate")),
    "gzip that is none": Abuse(whole(INFER_PATH, b"\x1f\x8b" + b"x" * 1000, "Content-Encoding: gzip")),
    "an unknown coding": Abuse(whole(INFER_PATH, _BODY, "Content-Encoding: br")),
    "half a body, then the end": Abuse(only(head(UNARY_PATH, "Content-Length: 1000"), _BODY), whole=False, ends=True),
    "half a body, held open": Abuse(only(head(UNARY_PATH, "Content-Length: 1000"), _BODY), whole=False),
    "half a chunk, held open": Abuse(
        only(head(STREAM_PATH, "Transfer-Encoding: chunked"), b"ffff\r\n" + _BODY), whole=False
    ),
    "half a head, held open": Abuse(only(head(UNARY_PATH)[:-20]), whole=False),
    "a length below zero": Abuse(only(head(INFER_PATH, "Content-Length: -1"), _BODY)),
    "a length beyond all": Abuse(only(head(INFER_PATH, "Content-Length: 18446744073709551615"), _BODY)),
    "a length that is no number": Abuse(only(head(INFER_PATH, "Content-Length: many"), _BODY)),
    "two lengths": Abuse(only(head(UNARY_PATH, "Content-Length: 5", f"Content-Length: {len(_BODY)}"), _BODY)),
    "a length and chunks": Abuse(
        only(head(UNARY_PATH, "Content-Length: 5", "Transfer-Encoding: chunked"), b"0\r\n\r\n", _BODY)
    ),
    "a chunk's size that is no number": Abuse(
        only(head(UNARY_PATH, "Transfer-Encoding: chunked"), b"zz\r\nabc\r\n0\r\n\r\n")
    ),
    "a chunk of 2^60 bytes": Abuse(only(head(UNARY_PATH, "Transfer-Encoding: chunked"), b"1000000000000000\r\nabc")),
    "a JSON part longer than the body": Abuse(
        whole(INFER_PATH, _BODY, f"Inference-Header-Content-Length: {10 * len(_BODY)}")
    ),
    "a JSON part below zero": Abuse(whole(INFER_PATH, _BODY, "Inference-Header-Content-Length: -5")),
    "a header of 1 MB": Abuse(only(head(UNARY_PATH, "X-Long: " + "x" * 2**20))),
    "100,000 headers": Abuse(only(head(UNARY_PATH, *(f"X-{index}: 1" for index in range(100_000))))),
    "a path of 1 MB": Abuse(only(head("/v2/models/" + "x" * 2**20, "Content-Length: 0"))),
    "bytes that are no HTTP": Abuse(only(bytes(range(256)) * 256)),
    "an unknown method": Abuse(only(head(UNARY_PATH, "Content-Length: 0", method="BREW"))),
    "2,000 requests at once on one connection": Abuse(only(head("/v2/health/live", method="GET") * 2000)),
}


@dataclass(frozen=True)
class Aftermath:
    """Outcome of an abuse: the HTTP answer, whether tritonserver was restarted, and the seconds until it served."""

    name: str
    answer: str
    restarted: bool
    served_s: float
    faults: tuple[str, ...] = ()


def suffered(server: Server, name: str, *, right: bytes) -> Aftermath:
    """Commit an abuse, and check that the server returns the right bytes while the connection is still open."""
    pid = server.pid
    abuse = ABUSES[name]
    address = urlsplit(server.http_url)
    with socket.create_connection((address.hostname, address.port), timeout=SEND_LIMIT_S) as connection:
        with contextlib.suppress(OSError):  # the server may refuse before the end
            for piece in abuse.pieces():
                connection.sendall(piece)
            if abuse.ends:
                connection.shutdown(socket.SHUT_WR)
        told = _read(connection) if abuse.whole else ""
        began = time.monotonic()
        found = answer(server, began + SERVED_LIMIT_S)
    faults = () if found == right else (f"{name}: afterwards {'other bytes' if found else 'nothing served'}",)
    return Aftermath(name, told, _pid(server) != pid, round(time.monotonic() - began, 1), faults)


def answer(server: Server, until: float) -> bytes | None:
    """Repeat a small valid request over gRPC until it succeeds while HTTP is alive too. Returns its video."""
    while time.monotonic() < until:
        with contextlib.suppress(ClientError, OSError), TextToVideo(Connection(server.grpc_url)) as client:
            if _lives(server):
                return client.generate_unary("a red ball", deadline_s=20, **GOOD).video
        time.sleep(0.5)
    return None


def _lives(server: Server) -> bool:
    """Whether the server is alive over HTTP, which is what the abuses affect."""
    address = urlsplit(server.http_url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(head("/v2/health/live", "Connection: close", method="GET"))
        return b"200 OK" in connection.recv(PIECE)


def _pid(server: Server) -> int:
    with contextlib.suppress(ServerError):
        return server.pid
    return 0


def _read(connection: socket.socket) -> str:
    """Read the first line of the answer. Empty if none comes within the limit."""
    connection.settimeout(READ_LIMIT_S)
    with contextlib.suppress(OSError):
        return connection.recv(PIECE).split(b"\r\n")[0].decode(errors="replace")
    return ""


def abused(server: Server, names: Iterable[str]) -> Iterator[Aftermath]:
    """Commit the abuses one after the other, and yield the outcomes."""
    right = answer(server, time.monotonic() + SERVED_LIMIT_S)
    if right is None:
        raise RuntimeError("the server did not serve before anything was done to it")
    for name in names:
        yield suffered(server, name, right=right)
