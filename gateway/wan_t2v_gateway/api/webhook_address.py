"""The check of webhook addresses: accepted are public ones, and private hosts that are allowed by name."""

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from wan_t2v_gateway.api.errors import InvalidField

_NAME_LIMIT_S = 2.0  # longest wait for name resolution in a request


class PrivateAddress(Exception):
    """The host is not a public one."""


async def check_webhook_url(url: str, allowed_hosts: Collection[str]) -> None:
    """Raise InvalidField unless the URL is one of a public web server, or of an allowed host."""
    try:
        async with asyncio.timeout(_NAME_LIMIT_S):
            await public_addresses(url, allowed_hosts)
    except (PrivateAddress, ValueError) as error:
        raise InvalidField("webhook_url", url, f"an http or https URL of a public host ({error})") from None
    except OSError:
        return  # the name may resolve later; each delivery checks it again


async def public_addresses(url: str, allowed_hosts: Collection[str]) -> list[str]:
    """Resolve the URL's host. Raises ValueError for a bad URL, PrivateAddress, or OSError if resolution fails."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or len(url) > 2000:
        raise ValueError("it begins with http:// or https:// and has a host and no password")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if parts.hostname not in allowed_hosts:
        for address in addresses:
            if not ipaddress.ip_address(address.partition("%")[0]).is_global:
                raise PrivateAddress(f"{parts.hostname} is {address}")
    return addresses
