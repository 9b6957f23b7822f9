"""A worker's writes about its running job. Once a later attempt of the job has begun, an earlier one cannot write."""

from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from wan_t2v_gateway.database.call_limit import limited
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.records import COLUMNS, Video, video_from_row
from wan_t2v_gateway.database.usage import SPENT

CHANNEL = "wan_t2v_video"  # notified with the video's id after every change
# A job that was only refused has not begun: others' turns must not count from it.
_WAITS: LiteralString = (
    "status = 'queued', attempt_at = NULL, started_at = CASE WHEN EXISTS "
    "(SELECT FROM video_events WHERE video_id = videos.id AND kind = 'step') THEN started_at END"
)
# The worker that was given up may have been silent only: while no other has begun, its attempt goes on.
_UNDER_WAY: LiteralString = (
    "id = %s AND attempt = %s AND (status = 'in_progress' OR (status = 'queued' AND progress ? 'given_back'))"
)
_WRITE: LiteralString = (
    "UPDATE videos SET status = 'in_progress', progress = progress - 'given_back' || %s, "  # noqa: S608
    "preview = coalesce(%s, preview), started_at = coalesce(started_at, clock_timestamp()), "
    "attempt_at = CASE WHEN NOT %s THEN coalesce(attempt_at, clock_timestamp() - "
    "CASE WHEN progress ? 'given_back' THEN 0 ELSE %s END * interval '1 second') END "
    f"WHERE {_UNDER_WAY}"
)


async def begin(database: Database, video_id: str) -> Video | None:
    """Begin the job's next attempt; None if the job has ended or its cancellation was requested."""
    row = await database.row(
        "UPDATE videos SET status = 'in_progress', started_at = coalesce(started_at, clock_timestamp()), "  # noqa: S608
        "attempt_at = clock_timestamp(), attempt = attempt + 1, progress = '{}' "
        "WHERE id = %s AND status IN ('queued', 'in_progress') AND cancel_requested_at IS NULL "
        f"RETURNING {COLUMNS}",
        [video_id],
    )
    return None if row is None else video_from_row(row)


@dataclass(frozen=True)
class Update:
    """An update of a running job: an event, and perhaps a new preview (PNG).

    While a job `waits` in the server's queue, its seconds do not count. Those before its first update after that do, if
    the update is about them: `worked_s`. After a give-back they do not, since those of the attempt are booked already.
    """

    kind: str
    data: dict[str, Any]
    preview: bytes | None = None
    waits: bool = False
    worked_s: float = 0.0


@limited
async def write(database: Database, video: Video, update: Update) -> bool:
    """Record an update and notify watchers. Returns False if another attempt has begun, or the job has ended."""
    async with database.transaction() as connection:
        cursor = await connection.execute(
            _WRITE,
            [Jsonb(update.data), update.preview, update.waits, update.worked_s, video.id, video.attempt],
        )
        if not cursor.rowcount:
            return False
        await connection.execute(
            "INSERT INTO video_events (video_id, kind, data) VALUES (%s, %s, %s)",
            [video.id, update.kind, Jsonb(update.data)],
        )
        await connection.execute("SELECT pg_notify(%s, %s)", [CHANNEL, video.id])
    return True


async def count_crash(database: Database, video_id: str) -> int:
    """Count a crash of the server or of the worker during a job. Returns the job's crashes; 0 if it is gone."""
    row = await database.row("UPDATE videos SET crashes = crashes + 1 WHERE id = %s RETURNING crashes", [video_id])
    return int(row["crashes"]) if row else 0


async def claim_folder(database: Database, video: Video, folder: str) -> bool:
    """Record that this attempt stores files, so that they are found and removed whatever happens.

    Returns False if another attempt has begun, or the job has ended.
    """
    row = await database.row(
        "UPDATE videos SET folders = array_append(array_remove(folders, %s), %s) "  # noqa: S608
        f"WHERE {_UNDER_WAY} RETURNING id",
        [folder, folder, video.id, video.attempt],
    )
    return row is not None


async def give_back(connection: AsyncConnection[DictRow], video_id: str, worker: int | None) -> None:
    """Record that the job waits in the queue again although its worker did not say so, in the caller's transaction.

    The worker's last report ends the attempt's seconds of generation. None counts if no worker is known.
    """
    await connection.execute(
        f"UPDATE videos SET {_WAITS}, progress = jsonb_build_object('given_back', true), "  # noqa: S608
        "worked_s = worked_s + greatest(0, extract(epoch FROM (SELECT last_heartbeat FROM procrastinate_workers "
        "WHERE id = %s) - attempt_at)) WHERE id = %s AND status = 'in_progress'",
        [worker, video_id],
    )
    await connection.execute("SELECT pg_notify(%s, %s)", [CHANNEL, video_id])


@limited
async def put_back(database: Database, video: Video, *, outage_s: float = 0.0) -> None:
    """Record that the job waits in the queue again, after `outage_s` seconds of waiting for a server or store."""
    async with database.transaction() as connection:
        await connection.execute(
            f"UPDATE videos SET {_WAITS}, progress = '{{}}', worked_s = {SPENT}, outage_s = outage_s + %s "  # noqa: S608
            "WHERE id = %s AND attempt = %s AND status = 'in_progress'",
            [outage_s, video.id, video.attempt],
        )
        await connection.execute("SELECT pg_notify(%s, %s)", [CHANNEL, video.id])
