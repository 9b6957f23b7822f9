"""Dependencies of every route: the gateway's parts, and the owner who calls."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request

from wan_t2v_gateway.api.errors import ApiError
from wan_t2v_gateway.database import owners
from wan_t2v_gateway.database.listener import Listener
from wan_t2v_gateway.database.owners import LOCAL, Owner
from wan_t2v_gateway.server_limits import LimitsReader
from wan_t2v_gateway.services import Services

_OTHER_SITE = "requests of other sites' pages are refused; let the site's server call, with a key"
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Gateway:
    """Parts of this process that routes use.

    Attributes:
        open_access: while no key exists, every caller is the local owner.
        streams: number of open event streams by owner.
        stopping: set when the gateway stops; no new connection is taken then, and event streams end.
    """

    services: Services
    limits: LimitsReader
    listener: Listener
    open_access: bool
    streams: Counter[str] = field(default_factory=Counter)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


def gateway_of(request: Request) -> Gateway:
    """Return the running gateway."""
    gateway: Gateway = request.app.state.gateway
    return gateway


async def owner_of(request: Request) -> Owner:
    """Return the owner of the request's key. Raises ApiError 401 for a missing or unknown key."""
    gateway = gateway_of(request)
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    database = gateway.services.database
    if scheme.lower() == "bearer" and (owner := await owners.by_key(database, key.strip())):
        return owner
    if gateway.open_access and not await owners.any_key(database):
        _check_browser(request)
        return Owner(LOCAL, administrator=True)
    raise ApiError(401, "Authorization: a bearer key is needed", headers={"www-authenticate": "Bearer"})


def _check_browser(request: Request) -> None:
    """Raise ApiError 403 for another site's page in a local browser, also after DNS rebinding of its host name."""
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise ApiError(403, _OTHER_SITE)
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    if origin is not None and _address(origin) != host:
        raise ApiError(403, _OTHER_SITE)
    if _host_name(host) not in _LOCAL_NAMES:
        raise ApiError(
            403, f"host: got {host[:100]!r}; accepted without a key: localhost, 127.0.0.1, ::1", param="host"
        )


def _address(origin: str) -> str | None:
    """Return host and port of an origin; None if it is invalid, such as with an open bracket."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


TheGateway = Annotated[Gateway, Depends(gateway_of)]
TheOwner = Annotated[Owner, Depends(owner_of)]
