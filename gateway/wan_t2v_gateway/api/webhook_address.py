"""The check of webhook addresses: accepted are public ones, and private hosts that are allowed by name."""

import asyncio
import ipaddress
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

from wan_t2v_gateway.api.errors import InvalidField
from wan_t2v_gateway.name_lookups import NameLookups

_NAME_LIMIT_S = 2.0  # longest wait for name resolution in a request
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")  # all global unicast; the rest is reserved, local or multicast
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNREACHABLE = (  # special networks that some versions of ipaddress call global
    ipaddress.ip_network("192.0.0.0/24"),
    ipaddress.ip_network("192.88.99.0/24"),
    ipaddress.ip_network("2001::/23"),
    ipaddress.ip_network("3fff::/20"),
)


class PrivateAddress(Exception):
    """The host is not a public one."""


async def check_webhook_url(url: str, allowed_hosts: Collection[str], *, names: NameLookups, owner: str) -> None:
    """Raise InvalidField unless the URL is one of a public web server, or of an allowed host."""
    try:
        async with asyncio.timeout(_NAME_LIMIT_S):
            await public_addresses(url, allowed_hosts, names=names, owner=owner)
    except (PrivateAddress, ValueError) as error:
        raise InvalidField("webhook_url", url, f"an http or https URL of a public host ({error})") from None
    except OSError:
        return  # the name may resolve later; each delivery checks it again


async def public_addresses(url: str, allowed_hosts: Collection[str], *, names: NameLookups, owner: str) -> list[str]:
    """Resolve the URL's host. Raises ValueError for a bad URL, PrivateAddress, or OSError if resolution fails."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or len(url) > 2000:
        raise ValueError("it begins with http:// or https:// and has a host, and no user or password")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = await names.addresses(parts.hostname, port, owner=owner)
    if parts.hostname not in allowed_hosts:
        for address in addresses:
            if not _is_public(ipaddress.ip_address(address.partition("%")[0])):
                raise PrivateAddress(f"{parts.hostname} is {address}")
    return addresses


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is of one public host; for one that stands for an IPv4 address, whether that is."""
    if isinstance(address, IPv6Address):
        embedded = _embedded(address)
        if embedded is not None:
            return _is_public(embedded)
        if address not in _PUBLIC_6:
            return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _UNREACHABLE)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address to which packets for this one go: mapped, by 6to4, or by NAT64; None for others."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
