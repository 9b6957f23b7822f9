"""Deliver webhooks: signed, with the same bytes and id at each attempt, retried for a day.

A receiver is any caller's host. It gets a fixed time, no thread but for the look-up of its name, and nobody reads what
it sends after the response's head. The queue gives an owner's receivers some of the places, not all.
"""

import asyncio
import functools
import logging
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

import h11
from procrastinate.job_context import JobContext
from standardwebhooks import Webhook

from wan_t2v_gateway.api.webhook_address import PrivateAddress, public_addresses
from wan_t2v_gateway.database.owners import webhook_secret
from wan_t2v_gateway.queue.tasks import TryAgain
from wan_t2v_gateway.services import Services

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 3600.0
_GIVE_UP_AFTER = timedelta(days=1)
_UNDELIVERED = (
    "SELECT webhooks.*, coalesce(trace, '{}') AS trace FROM webhooks LEFT JOIN videos ON videos.id = video_id "
    "WHERE webhooks.id = %s AND delivered_at IS NULL"
)
_DELIVERY_S = 15.0  # from the look-up of the receiver's name to the end of its response's head
_READ_BYTES = 4096
_AS_IT_IS = "%/:?#[]@!$&'()*+,;=~"  # of an address, which may have been quoted already


class Deliverer:
    """The task `deliver` of one process."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, context: JobContext, webhook_id: str) -> None:
        """Try one delivery, and record its result. Raises TryAgain if the queue must retry it."""
        database = self._services.database
        row = await database.row(_UNDELIVERED, [webhook_id])
        if row is None:
            return
        with self._services.tracer.span("webhook", row["trace"], webhook=webhook_id) as span:
            result = await self._result(row)
            span.note(result=result[:200])
        await database.rows(
            "INSERT INTO webhook_attempts (webhook_id, result) VALUES (%s, %s)", [webhook_id, result[:200]]
        )
        delivered = result.startswith("2")
        self._services.measurements.webhook_attempts["delivered" if delivered else "failed"] += 1
        if delivered:
            await database.rows("UPDATE webhooks SET delivered_at = now() WHERE id = %s", [webhook_id])
        elif datetime.now(UTC) - row["created_at"] < _GIVE_UP_AFTER:
            pause_s = min(
                _LONGEST_PAUSE_S, self._services.settings.webhook_retry_s * 2.0 ** min(context.job.attempts, 16)
            )
            raise TryAgain(f"webhook {webhook_id}: {result}", pause_s)

    async def _result(self, row: dict[str, Any]) -> str:
        """Send the webhook. Returns the response's status, or a description of the failure."""
        try:
            secret = await webhook_secret(self._services.database, row["owner"])
            hosts, names = self._services.settings.webhook_hosts, self._services.names
            async with asyncio.timeout(_DELIVERY_S):
                addresses = await public_addresses(row["url"], hosts, names=names, owner=row["owner"])
                return await post(row, addresses[0], secret)
        except TimeoutError:
            return f"TimeoutError: no response within {_DELIVERY_S:g} s"
        except (PrivateAddress, ValueError, LookupError, OSError, h11.ProtocolError) as error:
            return f"{type(error).__name__}: {error}"


async def post(row: dict[str, Any], address: str, secret: str) -> str:
    """Post to the checked address, so that a later change of name resolution has no effect. Returns the status.

    Raises ValueError, OSError, h11.ProtocolError.
    """
    parts, now = urlsplit(row["url"]), datetime.now(UTC)
    headers = {
        "content-type": "application/json",
        "content-length": str(len(row["body"].encode())),
        "host": _host(parts),
        "user-agent": "wan-t2v-gateway",  # firewalls refuse requests without one
        "connection": "close",
        "webhook-id": row["id"],
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(row["id"], now, row["body"]),
    }
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    request = h11.Request(method="POST", target=quote(target, safe=_AS_IT_IS), headers=list(headers.items()))
    reader, writer = await _connected(parts, address)
    try:
        return await _status(reader, writer, request, body=row["body"].encode())
    finally:
        writer.transport.abort()  # a receiver that goes on sending is not heard out


def _host(parts: SplitResult) -> str:
    """Return host and port for the header, which is ASCII: a name is in IDNA, an IPv6 address in brackets."""
    assert parts.hostname is not None
    name = parts.hostname.encode("idna").decode()
    name = f"[{name}]" if ":" in name else name
    return name if parts.port is None else f"{name}:{parts.port}"


async def _connected(parts: SplitResult, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if parts.scheme != "https":
        return await asyncio.open_connection(address, parts.port or 80)
    return await asyncio.open_connection(address, parts.port or 443, ssl=_trust(), server_hostname=parts.hostname)


@functools.cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads hundreds of certificates


async def _status(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: h11.Request, *, body: bytes
) -> str:
    """Send the request and return the response's status. Its body is not read."""
    connection = h11.Connection(h11.CLIENT)
    for part in (request, h11.Data(data=body), h11.EndOfMessage()):
        writer.write(connection.send(part) or b"")
    await writer.drain()
    while not isinstance(event := connection.next_event(), h11.Response):
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_BYTES))
    return str(event.status_code)
