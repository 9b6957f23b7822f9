"""The end of a job: its record, its last event and its webhook in one transaction, once."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from wan_t2v_gateway.database.call_limit import limited
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.progress import CHANNEL
from wan_t2v_gateway.database.records import COLUMNS, Video, video_from_row
from wan_t2v_gateway.database.usage import COUNTS, SPENT

# connection, webhook's id, owner -> id of the queue's job
QueueWebhook = Callable[[AsyncConnection[DictRow], str, str], Awaitable[int]]

_NEVER_BEGUN_KEPT = 1000  # per owner: no limit counts such jobs, so an owner could fill the database with them
# They have neither files nor seconds of generation. One end forgets some more than it adds, and not all: a large stock
# from before would exceed the time of the call.
_FORGET_NEVER_BEGUN: LiteralString = (
    "WITH gone AS (DELETE FROM videos WHERE id = ANY(ARRAY(SELECT id FROM videos WHERE owner = %s "
    "AND status = 'cancelled' AND attempt = 0 ORDER BY completed_at DESC OFFSET %s LIMIT 100)) RETURNING id) "
    "DELETE FROM webhooks USING gone WHERE video_id = gone.id"
)


@dataclass(frozen=True)
class Ending:
    """End of a job: its status `completed`, `failed` or `cancelled`, and the values of its record.

    `bytes` is the size of all files, `sha256` that of the video, `folder` where they are in the store; `keep_s` is the
    time in seconds until it expires.
    """

    status: str
    error: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    bytes: int = 0
    sha256: str | None = None
    keep_s: float | None = None
    folder: str | None = None


def failure(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Make the `error` of a video's document."""
    return {"code": code, "message": message[:2000], **({"param": param} if param else {})}


@limited
async def end(
    database: Database, video_id: str, ending: Ending, *, queue_webhook: QueueWebhook, attempt: int | None = None
) -> Video | None:
    """Record the end of a job. Returns None if it had ended otherwise before, or if another attempt has begun.

    Raises DatabaseUnavailable; the end may be recorded all the same, and the next call then returns it.
    """
    async with database.transaction() as connection:
        cursor = await connection.execute(
            "UPDATE videos SET status = %s, error = %s, metadata = %s, bytes = %s, sha256 = %s, "  # noqa: S608
            "folder = %s, completed_at = clock_timestamp(), expires_at = clock_timestamp() + %s * interval '1 second' "
            "WHERE id = %s AND (%s::int IS NULL OR attempt = %s) AND status IN ('queued', 'in_progress') "
            f"RETURNING {COLUMNS}",
            [
                *(ending.status, Jsonb(ending.error), Jsonb(ending.metadata), ending.bytes, ending.sha256),
                *(ending.folder, ending.keep_s, video_id, attempt, attempt),
            ],
        )
        row = await cursor.fetchone()
        if row is None:
            return await _recorded_before(connection, video_id, ending)
        video = video_from_row(row)
        await connection.execute(
            f"INSERT INTO work (owner, status, seconds) SELECT owner, status, {SPENT} FROM videos "  # noqa: S608
            f"WHERE id = %s AND {COUNTS}",
            [video_id],
        )
        await connection.execute(
            "INSERT INTO video_events (video_id, kind, data) VALUES (%s, %s, %s)",
            [video_id, ending.status, Jsonb({"error": ending.error} if ending.error else {})],
        )
        if video.webhook_url:
            await _add_webhook(connection, video, queue_webhook)
        if video.attempt == 0:
            await connection.execute(_FORGET_NEVER_BEGUN, [video.owner, _NEVER_BEGUN_KEPT])
        await connection.execute("SELECT pg_notify(%s, %s)", [CHANNEL, video_id])
        return video


async def _recorded_before(connection: AsyncConnection[DictRow], video_id: str, ending: Ending) -> Video | None:
    """Return the record if an earlier call recorded this very end: its folder is of this attempt alone."""
    cursor = await connection.execute(
        f"SELECT {COLUMNS} FROM videos WHERE id = %s AND status = %s AND folder = %s",  # noqa: S608
        [video_id, ending.status, ending.folder],
    )
    row = await cursor.fetchone()
    return None if row is None else video_from_row(row)


async def _add_webhook(connection: AsyncConnection[DictRow], video: Video, queue_webhook: QueueWebhook) -> None:
    """Record and queue a webhook. The body is stored, so that every delivery sends the same bytes."""
    webhook_id = f"msg_{video.id}_{video.status}"
    assert video.completed_at is not None
    body = {
        "type": f"video.{video.status}",
        "timestamp": video.completed_at.isoformat(),
        "data": {"id": video.id, "status": video.status, **({"error": video.error} if video.error else {})},
    }
    await connection.execute(
        "INSERT INTO webhooks (id, video_id, owner, url, body) VALUES (%s, %s, %s, %s, %s)",
        [webhook_id, video.id, video.owner, video.webhook_url, json.dumps(body)],
    )
    await queue_webhook(connection, webhook_id, video.owner)
