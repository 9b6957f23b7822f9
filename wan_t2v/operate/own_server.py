"""HTTP calls to a server on this machine. They bypass the environment's proxy, which could not reach the server."""

import contextlib
import http.client
import socket
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_BYTES = 2**20  # of an answer's body; a model's configuration has a few thousand
_EXCEPTIONS = ("no_proxy", "NO_PROXY")
_EXCEPTIONS_OF_GRPC = "no_grpc_proxy"  # where it is set, gRPC reads only this one


class AddressError(ValueError):
    """The text is not an HTTP address; the message has the accepted form."""


def http_address(text: str) -> str:
    """Check the address of an HTTP server and remove a trailing slash. Raises AddressError."""
    try:
        parts = urllib.parse.urlsplit(text)
        usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(character.isspace() or not character.isprintable() for character in text):
        raise AddressError(f"got {text[:200]!r}; accepted: http://HOST:PORT")
    return text.rstrip("/")


def http_status(url: str, *, timeout_s: float) -> int:
    """Return the HTTP status of a GET of this URL, without its body. Raises OSError if none comes in time."""
    with _answer(url, timeout_s) as response:
        return response.status


def http_get(url: str, *, timeout_s: float) -> tuple[int, bytes]:
    """Return the HTTP status and the body of a GET of this URL. Raises OSError unless all of it comes in time."""
    with _answer(url, timeout_s) as response:
        body = response.read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES:
            raise ConnectionError(f"the answer has more than {MOST_BYTES} bytes")
        return response.status, body


@contextlib.contextmanager
def _answer(url: str, timeout_s: float) -> Iterator[http.client.HTTPResponse]:
    """Ask for this URL. Raises OSError if no HTTP response comes in time; the limit holds for its body too."""
    parts = urllib.parse.urlsplit(url)
    connection = _Connection(parts.hostname or "", parts.port, timeout=timeout_s)
    connection.ends_at = time.monotonic() + timeout_s
    try:
        connection.request("GET", parts.path, headers={"Connection": "close"})
        with connection.getresponse() as response:
            yield response
    except http.client.HTTPException as error:
        raise ConnectionError(f"the answer is not HTTP ({type(error).__name__})") from None
    finally:
        connection.close()


class _Connection(http.client.HTTPConnection):
    """HTTP connection that receives nothing after the time `ends_at`."""

    ends_at: float

    def connect(self) -> None:
        super().connect()
        connected = _Socket(fileno=self.sock.detach())
        connected.ends_at = self.ends_at
        self.sock = connected


class _Socket(socket.socket):
    """Socket whose time limit is for all that it receives: a usual one's starts anew with each byte."""

    ends_at: float

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        left_s = self.ends_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self.settimeout(left_s)
        return super().recv_into(*arguments, **options)


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with this machine's addresses added to its proxy exceptions."""
    excepted = {name: environment[name] for name in (*_EXCEPTIONS, _EXCEPTIONS_OF_GRPC) if environment.get(name)}
    hosts = [host.strip() for text in excepted.values() for host in text.split(",") if host.strip()]
    together = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))
    names = {*_EXCEPTIONS, *excepted}
    return {**environment, **dict.fromkeys(names, together)}
