"""Keep calls to a server on this machine away from the environment's proxies."""

import ipaddress
from typing import Any


def proxy_arguments(url: str) -> list[tuple[str, Any]]:
    """Make the gRPC channel's arguments for `host:port`; by default gRPC uses the proxy even for loopback."""
    return [("grpc.enable_http_proxy", 0)] if is_loopback(url) else []


def is_loopback(url: str) -> bool:
    """Whether the host of `host:port` is a loopback address or `localhost`, without resolving it."""
    host = url.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
