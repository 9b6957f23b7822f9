"""A worker's writes about its running job. Once a later attempt of the job has begun, an earlier one cannot write."""

from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from wan_t2v_gateway.database.call_limit import limited
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.records import COLUMNS, Video, video_from_row
from wan_t2v_gateway.database.usage import SPENT

CHANNEL = "wan_t2v_video"  # notified with the video's id after every change


async def begin(database: Database, video_id: str) -> Video | None:
    """Begin the job's next attempt; None if the job has ended or its cancellation was requested."""
    row = await database.row(
        "UPDATE videos SET status = 'in_progress', started_at = coalesce(started_at, clock_timestamp()), "  # noqa: S608
        "attempt_at = clock_timestamp(), attempt = attempt + 1 "
        "WHERE id = %s AND status IN ('queued', 'in_progress') AND cancel_requested_at IS NULL "
        f"RETURNING {COLUMNS}",
        [video_id],
    )
    return None if row is None else video_from_row(row)


@dataclass(frozen=True)
class Update:
    """An update of a running job: an event, and perhaps a new preview (PNG)."""

    kind: str
    data: dict[str, Any]
    preview: bytes | None = None


@limited
async def write(database: Database, video: Video, update: Update) -> bool:
    """Record an update and notify watchers. Returns False if another attempt has begun, or the job has ended."""
    async with database.transaction() as connection:
        cursor = await connection.execute(
            "UPDATE videos SET progress = progress || %s, preview = coalesce(%s, preview) "
            "WHERE id = %s AND attempt = %s AND status = 'in_progress'",
            [Jsonb(update.data), update.preview, video.id, video.attempt],
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
        "UPDATE videos SET folders = array_append(array_remove(folders, %s), %s) "
        "WHERE id = %s AND attempt = %s AND status = 'in_progress' RETURNING id",
        [folder, folder, video.id, video.attempt],
    )
    return row is not None


@limited
async def put_back(database: Database, video: Video, *, outage_s: float = 0.0) -> None:
    """Record that the job waits in the queue again, after `outage_s` seconds of waiting for a server or store.

    A job that was only refused has not begun: others' turns must not count from it.
    """
    async with database.transaction() as connection:
        await connection.execute(
            f"UPDATE videos SET status = 'queued', progress = '{{}}', worked_s = {SPENT}, attempt_at = NULL, "  # noqa: S608
            "outage_s = outage_s + %s, started_at = CASE WHEN EXISTS (SELECT FROM video_events "
            "WHERE video_id = videos.id AND kind = 'step') THEN started_at END "
            "WHERE id = %s AND attempt = %s AND status = 'in_progress'",
            [outage_s, video.id, video.attempt],
        )
        await connection.execute("SELECT pg_notify(%s, %s)", [CHANNEL, video.id])
