"""Explain a failed gRPC connection: an HTTP endpoint, which closes it without an error, or a certificate."""

import re
import socket

from wan_t2v_client.errors import ClientError, Unavailable, WrongEndpoint
from wan_t2v_client.transport.address import host_and_port

PROBE_LIMIT_S = 2.0
_REQUEST = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# gRPC's messages when a server accepted the connection but does not use HTTP/2.
_NO_HTTP_2 = re.compile(r"http1\.x server|Failed parsing HTTP/2|missing selected ALPN")
_PERHAPS_HTTP_1 = re.compile(
    r"failed to connect to all addresses.*(Socket closed|Connection reset|WRONG_VERSION_NUMBER)"
)
_OF_CERTIFICATE = re.compile(  # of the connection itself: a proxy may report the like of the one behind it
    r"failed to connect to all addresses.*"
    r"(CERTIFICATE_VERIFY_FAILED(: (?P<reason>[^:]+))?|(?P<name>Hostname Verification Check failed))"
)


def explain(error: ClientError, url: str) -> ClientError:
    """Return the error, or WrongEndpoint for an HTTP server at the address or a certificate that does not verify.

    Takes up to PROBE_LIMIT_S.
    """
    if not isinstance(error, Unavailable):
        return error
    message = str(error)
    if found := _OF_CERTIFICATE.search(message):
        reason = "it is for another name" if found["name"] else found["reason"] or "unknown reason"
        return WrongEndpoint(
            f"url: got {url!r}, whose certificate does not verify ({reason}); accepted: a valid one for this name, "
            "of the authority that --ca-file names or else of one that gRPC knows"
        )
    if _NO_HTTP_2.search(message) or (_PERHAPS_HTTP_1.search(message) and _speaks_http_1(url)):
        return WrongEndpoint(
            f"url: got {url!r}, where HTTP answers and not gRPC; accepted: HOST:PORT of the gRPC endpoint "
            "(port 8001 by Triton's default; 8000 is HTTP, 8002 metrics), with --tls if it is encrypted"
        )
    return error


def _speaks_http_1(url: str) -> bool:
    address = host_and_port(url)
    if address is None:
        return False
    try:
        with socket.create_connection(address, timeout=PROBE_LIMIT_S) as connection:
            connection.sendall(_REQUEST)
            return connection.recv(7).startswith(b"HTTP/1.")
    except OSError:
        return False
