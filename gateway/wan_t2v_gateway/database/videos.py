"""Reading, listing and removing videos' records."""

from typing import Any, LiteralString

from wan_t2v_gateway.database.call_limit import limited
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.records import COLUMNS, Video, video_from_row
from wan_t2v_gateway.database.switches import is_paused
from wan_t2v_gateway.database.usage import SPENT


async def find(database: Database, video_id: str, owner: str | None) -> Video | None:
    """Find a record of this owner; with None as owner, of any owner."""
    row = await database.row(
        f"SELECT {COLUMNS} FROM videos WHERE id = %s AND (%s::text IS NULL OR owner = %s)",  # noqa: S608
        [video_id, owner, owner],
    )
    return None if row is None else video_from_row(row)


async def page(
    database: Database, *, owner: str | None, status: str | None, after: str | None, limit: int, newest_first: bool
) -> list[Video]:
    """List up to `limit` records in order of arrival, after the one named `after`."""
    order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
    query: Any = (
        f"SELECT {COLUMNS} FROM videos WHERE (%(owner)s::text IS NULL OR owner = %(owner)s) "  # noqa: S608
        "AND (%(status)s::text IS NULL OR status = %(status)s) AND (%(after)s::text IS NULL OR "
        f"(created_at, id) {beyond} (SELECT created_at, id FROM videos WHERE id = %(after)s "
        "AND (%(owner)s::text IS NULL OR owner = %(owner)s))) "
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
    typical_s = await typical_seconds(database)
    return {"ahead": first, "wait_s": None if typical_s is None else round(first * typical_s, 1), "paused": False}


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

    Returns the folders in which its attempts stored files.
    """
    async with database.transaction() as connection:
        await connection.execute("DELETE FROM webhooks WHERE video_id = %s", [video_id])
        cursor = await connection.execute(
            "WITH gone AS (DELETE FROM videos WHERE id = %s RETURNING *), "  # noqa: S608
            f"spent AS (INSERT INTO work (owner, status, seconds) SELECT owner, 'cancelled', {SPENT} FROM gone "
            "WHERE status IN ('queued', 'in_progress')) SELECT folders FROM gone",
            [video_id],
        )
        row = await cursor.fetchone()
        return [] if row is None else list(row["folders"])
