"""Reading, listing and removing videos' records."""

from typing import Any, LiteralString

from wan_t2v_gateway.database.call_limit import limited
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.records import COLUMNS, Video, video_from_row
from wan_t2v_gateway.database.switches import is_paused
from wan_t2v_gateway.database.usage import COUNTS, SPENT

_PLACES_KEPT = 1000  # of removed videos, per owner
# The place of a video in the list, also of one that was removed lately.
_PLACE: LiteralString = (
    "SELECT created_at, id FROM (SELECT created_at, id, owner FROM videos WHERE id = %(after)s "
    "UNION ALL SELECT created_at, id, owner FROM removed_videos WHERE id = %(after)s LIMIT 1) AS place "
    "WHERE %(owner)s::text IS NULL OR owner = %(owner)s"
)
_FORGET_PLACES: LiteralString = (  # some more than one removal adds
    "DELETE FROM removed_videos WHERE id = ANY(ARRAY(SELECT id FROM removed_videos WHERE id = ANY(ARRAY("
    "SELECT id FROM removed_videos WHERE owner = %s ORDER BY removed_at DESC OFFSET %s LIMIT 10)) "
    "ORDER BY id FOR UPDATE SKIP LOCKED))"
)
# Seconds until the place is free that the next job gets once `jobs` have begun; no row if none runs.
_WAIT: LiteralString = (
    "SELECT (left_s + jobs / places * typical_s)::float8 AS wait_s FROM (SELECT %(jobs)s::bigint AS jobs, "
    "%(typical_s)s::float8 AS typical_s, count(*) OVER () AS places, row_number() OVER (ORDER BY started_at, id) - 1 "
    "AS place, greatest(0, %(typical_s)s - extract(epoch FROM clock_timestamp() - started_at)::float8) AS left_s "
    "FROM videos WHERE status = 'in_progress') AS running WHERE place = mod(jobs, places)"
)


async def find(database: Database, video_id: str, owner: str | None) -> Video | None:
    """Find a record of this owner; with None as owner, of any owner."""
    row = await database.row(
        f"SELECT {COLUMNS} FROM videos WHERE id = %s AND (%s::text IS NULL OR owner = %s)",  # noqa: S608
        [video_id, owner, owner],
    )
    return None if row is None else video_from_row(row)


async def has_place(database: Database, video_id: str, owner: str | None) -> bool:
    """Whether a video is in the list of this owner, or was until it was removed lately."""
    return await database.row(_PLACE, {"after": video_id, "owner": owner}) is not None


async def page(
    database: Database, *, owner: str | None, status: str | None, after: str | None, limit: int, newest_first: bool
) -> list[Video]:
    """List up to `limit` records in order of arrival, after the one named `after`."""
    order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
    query: Any = (
        f"SELECT {COLUMNS} FROM videos WHERE (%(owner)s::text IS NULL OR owner = %(owner)s) "  # noqa: S608
        "AND (%(status)s::text IS NULL OR status = %(status)s) AND (%(after)s::text IS NULL OR "
        f"(created_at, id) {beyond} ({_PLACE})) "
        f"ORDER BY created_at {order}, id {order} LIMIT %(limit)s"
    )
    arguments: Any = {"owner": owner, "status": status, "after": after, "limit": limit}
    return [video_from_row(row) for row in await database.rows(query, arguments)]


async def ahead(database: Database, video: Video) -> int:
    """Count the queued jobs that go before this one."""
    row = await database.row(
        "SELECT count(*) AS ahead FROM videos WHERE status = 'queued' AND (turn, queue_job) < (%s, %s)",
        [video.turn, video.queue_job],
    )
    return int(row["ahead"]) if row else 0


async def typical_seconds(database: Database) -> float | None:
    """Return the mean duration of the last 20 videos in seconds; None before the first one."""
    row = await database.row(
        "SELECT avg(extract(epoch FROM completed_at - started_at))::float8 AS seconds FROM (SELECT * FROM videos "
        "WHERE status = 'completed' ORDER BY completed_at DESC LIMIT 20) AS last"
    )
    return row["seconds"] if row else None


async def place(database: Database, video: Video) -> dict[str, Any]:
    """Return the video's place in the queue: jobs ahead, estimated seconds until its turn, and whether it is paused."""
    first = await ahead(database, video)
    if await is_paused(database):
        return {"ahead": first, "wait_s": None, "paused": True}
    return {"ahead": first, "wait_s": await _wait_s(database, first), "paused": False}


async def _wait_s(database: Database, jobs: int) -> float | None:
    """Estimate the seconds until `jobs` waiting ones have begun and a place is free; None before the first video.

    There are as many places as jobs that run, at least one, and each job takes the typical time. So places become free
    in the order in which their jobs began, again and again.
    """
    typical_s = await typical_seconds(database)
    if typical_s is None:
        return None
    row = await database.row(_WAIT, {"jobs": jobs, "typical_s": typical_s})
    return round(row["wait_s"] if row else jobs * typical_s, 1)


async def cancel_age_s(database: Database, video_id: str) -> float | None:
    """Return the seconds since the request to cancel; None if there was none."""
    row = await database.row(
        "SELECT extract(epoch FROM clock_timestamp() - cancel_requested_at)::float8 AS age FROM videos WHERE id = %s",
        [video_id],
    )
    return row["age"] if row else None


async def preview(database: Database, video_id: str) -> bytes | None:
    """Return the latest preview, a PNG; None if there is none."""
    row = await database.row("SELECT preview FROM videos WHERE id = %s", [video_id])
    return bytes(row["preview"]) if row and row["preview"] is not None else None


async def events_after(database: Database, video_id: str, last_id: int) -> list[dict[str, Any]]:
    """Return up to 1000 events after the one with `last_id`, in order."""
    query: LiteralString = (
        "SELECT id, kind, data, extract(epoch FROM at)::float8 AS at FROM video_events "
        "WHERE video_id = %s AND id > %s ORDER BY id LIMIT 1000"
    )
    return list(await database.rows(query, [video_id, last_id]))


async def ask_to_cancel(database: Database, video_id: str) -> None:
    """Record the time of the first request to cancel the job."""
    await database.rows(
        "UPDATE videos SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()) WHERE id = %s",
        [video_id],
    )


@limited
async def remove(database: Database, video_id: str) -> list[str]:
    """Delete the record with prompt, events and webhooks. Its seconds of generation stay in the usage.

    Its place in the list is kept for a while. Returns the folders in which its attempts stored files.
    """
    async with database.transaction() as connection:
        cursor = await connection.execute(
            "WITH gone AS (DELETE FROM videos WHERE id = %s RETURNING *), "  # noqa: S608
            f"spent AS (INSERT INTO work (owner, status, seconds) SELECT owner, 'cancelled', {SPENT} FROM gone "
            f"WHERE status IN ('queued', 'in_progress') AND {COUNTS}), "
            "placed AS (INSERT INTO removed_videos (id, owner, created_at) SELECT id, owner, created_at FROM gone) "
            "SELECT owner, folders FROM gone",
            [video_id],
        )
        row = await cursor.fetchone()
        # After the record, whose end may be adding one. All write to `videos` before `webhooks`: no circle of waits.
        await connection.execute("DELETE FROM webhooks WHERE video_id = %s", [video_id])
        if row is None:
            return []
        await connection.execute(_FORGET_PLACES, [row["owner"], _PLACES_KEPT])
        return list(row["folders"])
