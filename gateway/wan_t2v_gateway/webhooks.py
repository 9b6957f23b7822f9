"""Deliver webhooks: signed, with the same bytes and id at each attempt, retried for a day."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import urllib3
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
_TIMEOUT = urllib3.Timeout(connect=5, read=10)


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
            addresses = await public_addresses(row["url"], self._services.settings.webhook_hosts)
            secret = await webhook_secret(self._services.database, row["owner"])
            return await asyncio.to_thread(_post, row, addresses[0], secret)
        except (PrivateAddress, ValueError, LookupError, OSError, urllib3.exceptions.HTTPError) as error:
            return f"{type(error).__name__}: {error}"


def _post(row: dict[str, Any], address: str, secret: str) -> str:
    """Post to the checked address, so that a later change of name resolution has no effect. Returns the status."""
    parts, now = urlsplit(row["url"]), datetime.now(UTC)
    headers = {
        "content-type": "application/json",
        "host": parts.netloc,
        "webhook-id": row["id"],
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(row["id"], now, row["body"]),
    }
    options: dict[str, Any] = {"host": address, "port": parts.port, "timeout": _TIMEOUT, "retries": False}
    if parts.scheme == "https":
        pool: urllib3.HTTPConnectionPool = urllib3.HTTPSConnectionPool(
            **options, server_hostname=parts.hostname, assert_hostname=parts.hostname
        )
    else:
        pool = urllib3.HTTPConnectionPool(**options)
    path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    with pool:
        answer = pool.urlopen("POST", path, body=row["body"].encode(), headers=headers, redirect=False)
        return str(answer.status)
