"""HTTP calls to a server on this machine. They bypass the environment's proxy, which could not reach the server."""

import http.client
import urllib.parse
from collections.abc import Mapping

LOOPBACK = ("127.0.0.1", "localhost", "::1")
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
    """Return the HTTP status of a GET of this URL. Raises OSError if no HTTP response comes in time."""
    return http_get(url, timeout_s=timeout_s)[0]


def http_get(url: str, *, timeout_s: float) -> tuple[int, bytes]:
    """Return the HTTP status and the body of a GET of this URL. Raises OSError if no HTTP response comes in time."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("GET", parts.path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"the answer is not HTTP ({type(error).__name__})") from None
    finally:
        connection.close()


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with this machine's addresses added to its proxy exceptions."""
    excepted = {name: environment[name] for name in (*_EXCEPTIONS, _EXCEPTIONS_OF_GRPC) if environment.get(name)}
    hosts = [host.strip() for text in excepted.values() for host in text.split(",") if host.strip()]
    together = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))
    names = {*_EXCEPTIONS, *excepted}
    return {**environment, **dict.fromkeys(names, together)}
