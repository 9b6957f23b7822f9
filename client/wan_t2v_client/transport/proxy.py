"""Keep calls to a server on this machine away from the environment's proxies."""

import ipaddress
from typing import Any


def proxy_arguments(url: str) -> list[tuple[str, Any]]:
    """Arguments of the gRPC channel to `host:port`; gRPC itself would hand loopback addresses to a proxy, too."""
    return [("grpc.enable_http_proxy", 0)] if is_loopback(url) else []


def is_loopback(url: str) -> bool:
    """Whether the host of `host:port` is this machine by its own word."""
    host = url.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
