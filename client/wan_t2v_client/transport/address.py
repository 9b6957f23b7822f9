"""The check of the server's address, since gRPC misinterprets invalid ones."""

import re

from wan_t2v_client.errors import RequestRefused

_OWN_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")  # gRPC resolves these itself
_HOST_AND_PORT = re.compile(
    r"(?:\[(?P<address>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[\w.-]+)):(?P<port>[0-9]{1,5})", re.ASCII
)
_ACCEPTED = "accepted: HOST:PORT of the gRPC endpoint, such as 127.0.0.1:8001 or [::1]:8001"


def check_address(url: str) -> None:
    """Raise RequestRefused unless `url` is an address.

    gRPC would resolve a scheme as a host name, take port 443 if none is given, and truncate a large port to 16 bits.
    """
    if url.startswith(_OWN_SCHEMES) and url.isascii() and url.isprintable():
        return
    if host_and_port(url) is None:
        raise RequestRefused(f"url: got {_without_password(url)!r}; {_ACCEPTED}{_hint(url)}")


def host_and_port(url: str) -> tuple[str, int] | None:
    """Split `host:port`; None for anything else."""
    match = _HOST_AND_PORT.fullmatch(url)
    if not (match and 0 < int(match["port"]) < 2**16):
        return None
    return match["address"] or match["host"], int(match["port"])


def _hint(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    if mark and _HOST_AND_PORT.fullmatch(rest.rstrip("/")):
        tls = " with --tls" if scheme in ("https", "grpcs") else ""
        port = ", if that is the gRPC port (HTTP's is another)" if scheme in ("http", "https") else ""
        return f". Nearest: {rest.rstrip('/')}{tls}{port}"
    if url.count(":") > 1 and "[" not in url and not mark:
        return ". An IPv6 address stands in brackets"
    return ""


def _without_password(url: str) -> str:
    return re.sub(r"[^/@]*@", "***@", url)[:200]
