"""The owners' current and past usage, and its limits."""

from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from wan_t2v_gateway.database.pool import Database

QUEUE_RETRY_S = 30  # an owner's full queue may have room again after a video or two
_NEVER_RETRY_S = 24 * 3600  # no job's end makes room: an administrator may
# SQL: seconds of generation that a job has used so far, and whether its end is worth a row of `work`
SPENT: LiteralString = "worked_s + coalesce(extract(epoch FROM clock_timestamp() - attempt_at), 0)::float8"
COUNTS: LiteralString = "(status = 'completed' OR worked_s > 0 OR attempt_at IS NOT NULL)"
_USAGE: LiteralString = (  # no caller's text is in this query
    "SELECT owners.name AS owner, class, most_queued, most_running, most_seconds_a_day, jobs.*, past.* FROM owners "  # noqa: S608
    "CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE status = 'queued') AS queued, "
    "count(*) FILTER (WHERE status = 'in_progress') AS in_progress, "
    "count(*) FILTER (WHERE status = 'completed') AS kept_videos, coalesce(sum(bytes), 0)::bigint AS kept_bytes, "
    f"coalesce(sum({SPENT}) FILTER (WHERE status IN ('queued', 'in_progress')), 0) AS unfinished_s "
    "FROM videos WHERE owner = owners.name) AS jobs "
    "CROSS JOIN LATERAL (SELECT coalesce(sum(seconds) FILTER (WHERE ended_at > now() - interval '1 day'), 0) AS day_s, "
    "coalesce(sum(seconds), 0) AS month_s, "
    "count(*) FILTER (WHERE status = 'completed' AND ended_at > now() - interval '1 day') AS day_videos, "
    "count(*) FILTER (WHERE status = 'completed') AS month_videos "
    "FROM work WHERE owner = owners.name AND ended_at > now() - interval '30 days') AS past "
    "WHERE %s::text IS NULL OR owners.name = %s ORDER BY owners.name"
)


class TooManyJobs(Exception):
    """The owner's limit is reached; the message names it. `retry_after_s` estimates when there is room again."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Allowance:
    """An owner's limits; None stands for no limit."""

    most_queued: int | None = None
    most_running: int | None = None
    most_seconds_a_day: float | None = None


async def check_allowance(connection: AsyncConnection[DictRow], owner: str, allowance: Allowance) -> None:
    """Raise TooManyJobs if the owner may not have another job."""
    cursor = await connection.execute(
        f"SELECT count(*) FILTER (WHERE status = 'queued') AS queued, coalesce(sum({SPENT}), 0)::float8 "  # noqa: S608
        "AS seconds FROM videos WHERE owner = %s AND status IN ('queued', 'in_progress')",
        [owner],
    )
    row = await cursor.fetchone()
    assert row is not None
    if allowance.most_running == 0:
        raise TooManyJobs("none of your jobs may run (limit 0)", _NEVER_RETRY_S)
    most = allowance.most_queued
    if most is not None and row["queued"] >= most:
        raise TooManyJobs(f"{row['queued']} of your jobs wait (limit {most}); try again when one began", QUEUE_RETRY_S)
    if allowance.most_seconds_a_day is not None:
        await _check_seconds(connection, owner, row["seconds"], allowance.most_seconds_a_day)


async def _check_seconds(connection: AsyncConnection[DictRow], owner: str, unfinished_s: float, most: float) -> None:
    """Raise TooManyJobs if a day's seconds are used up. There is room again once the oldest work is a day old."""
    cursor = await connection.execute(
        "SELECT coalesce(max(till_here), 0)::float8 AS seconds, ceil(extract(epoch FROM max(ended_at) FILTER "
        "(WHERE till_here >= %s) + interval '1 day' - now()))::int AS free_in_s FROM (SELECT ended_at, "
        "sum(seconds) OVER (ORDER BY ended_at DESC, id DESC) AS till_here FROM work "
        "WHERE owner = %s AND ended_at > now() - interval '1 day') AS day",
        [most - unfinished_s, owner],
    )
    row = await cursor.fetchone()
    assert row is not None
    if row["seconds"] + unfinished_s >= most:
        raise TooManyJobs(
            f"{row['seconds'] + unfinished_s:.0f} seconds of generation in the last day (limit {most:g})",
            max(1, row["free_in_s"] or QUEUE_RETRY_S),
        )


async def usage(database: Database, owner: str | None) -> list[dict[str, Any]]:
    """Return the usage of one owner, or of all (None): current jobs, and work of the last day and the last 30 days."""
    return [_document(row) for row in await database.rows(_USAGE, [owner, owner])]


def _document(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "object": "usage",
        "owner": row["owner"],
        "class": row["class"],
        "queued": row["queued"],
        "in_progress": row["in_progress"],
        "unfinished": {"seconds": round(row["unfinished_s"], 3)},
        "last_day": {"seconds": round(row["day_s"], 3), "completed": row["day_videos"]},
        "last_30_days": {"seconds": round(row["month_s"], 3), "completed": row["month_videos"]},
        "kept": {"videos": row["kept_videos"], "bytes": row["kept_bytes"]},
        "limits": {name: row[name] for name in ("most_queued", "most_running", "most_seconds_a_day")},
    }


async def forget_old_work(database: Database) -> None:
    """Delete records of work that no report covers any more."""
    await database.delete_in_parts(
        "DELETE FROM work WHERE id = ANY(ARRAY(SELECT id FROM work WHERE ended_at < now() - interval '31 days' "
        "LIMIT %s FOR UPDATE SKIP LOCKED)) RETURNING id"
    )
