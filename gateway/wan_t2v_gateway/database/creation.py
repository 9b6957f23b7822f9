"""A new job: record and queue entry in one transaction, in its owner's order and fair between owners.

Every job gets a turn: one more than its owner's last, and at least the turn that is being served. Lower turns go first.
So an owner who sends a hundred jobs fills a hundred turns, and another's first stands in the turn that runs now.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from wan_t2v_gateway.database.limit import limited
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.records import COLUMNS, Video, video_from_row

Enqueue = Callable[[AsyncConnection[DictRow], str, int], Awaitable[int]]  # video id, turn -> number of the queue's job
_OWNER_LOCK = 7_240_115
_INSERT = """
INSERT INTO videos (id, owner, model, fields, turn, remixed_from, idempotency_key, body_hash, webhook_url)
SELECT %(id)s, %(owner)s, %(model)s, %(fields)s,
       GREATEST(
           COALESCE((SELECT max(turn) + 1 FROM videos WHERE owner = %(owner)s), 0),
           COALESCE((SELECT max(turn) FROM videos WHERE started_at IS NOT NULL), 0)
       ),
       %(remixed_from)s, %(idempotency_key)s, %(body_hash)s, %(webhook_url)s
RETURNING turn
"""


class KeyOfAnotherBody(Exception):
    """The idempotency key was used for a request with another body."""


class TooManyJobs(Exception):
    """The owner's limit is reached; the message names it."""


@dataclass(frozen=True)
class NewVideo:
    """What a job is made of."""

    id: str
    owner: str
    model: str
    fields: dict[str, Any]
    webhook_url: str = ""
    remixed_from: str | None = None
    idempotency_key: str | None = None
    body_hash: str | None = None
    most_queued: int | None = None
    most_seconds_a_day: float | None = None


@limited
async def create(database: Database, new: NewVideo, enqueue: Enqueue) -> Video:
    """Record and queue a job, or return the one that this idempotency key made before.

    Raises KeyOfAnotherBody, TooManyJobs, DatabaseUnavailable.
    """
    async with database.transaction() as connection:
        # two requests of one owner are put in an order here; their numbers then agree with it
        await connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_OWNER_LOCK % 2**31, new.owner])
        before = await _made_before(connection, new)
        if before is not None:
            return before
        await _check_limits(connection, new)
        cursor = await connection.execute(_INSERT, {**vars(new), "fields": Jsonb(new.fields)})
        row = await cursor.fetchone()
        assert row is not None
        job = await enqueue(connection, new.id, row["turn"])
        await connection.execute("UPDATE videos SET queue_job = %s WHERE id = %s", [job, new.id])
        await connection.execute(
            "INSERT INTO video_events (video_id, kind, data) VALUES (%s, 'queued', '{}')", [new.id]
        )
        return await _read(connection, new.id)


async def _made_before(connection: AsyncConnection[DictRow], new: NewVideo) -> Video | None:
    if new.idempotency_key is None:
        return None
    cursor = await connection.execute(
        "SELECT id, body_hash FROM videos WHERE owner = %s AND idempotency_key = %s", [new.owner, new.idempotency_key]
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    if row["body_hash"] != new.body_hash:
        raise KeyOfAnotherBody("Idempotency-Key: it was used for another request; send that one, or take another key")
    return await _read(connection, row["id"])


async def _check_limits(connection: AsyncConnection[DictRow], new: NewVideo) -> None:
    cursor = await connection.execute(
        "SELECT count(*) FILTER (WHERE status = 'queued') AS queued, coalesce(sum(extract(epoch FROM "
        "coalesce(completed_at, now()) - started_at)) FILTER (WHERE started_at > now() - interval '1 day'), 0)::float8 "
        "AS seconds FROM videos WHERE owner = %s",
        [new.owner],
    )
    row = await cursor.fetchone()
    assert row is not None
    if new.most_queued is not None and row["queued"] >= new.most_queued:
        raise TooManyJobs(f"{row['queued']} of your jobs wait (limit {new.most_queued}); try again when one has begun")
    if new.most_seconds_a_day is not None and row["seconds"] >= new.most_seconds_a_day:
        raise TooManyJobs(
            f"{row['seconds']:.0f} seconds of generation in the last day (limit {new.most_seconds_a_day:.0f})"
        )


async def _read(connection: AsyncConnection[DictRow], video_id: str) -> Video:
    cursor = await connection.execute(f"SELECT {COLUMNS} FROM videos WHERE id = %s", [video_id])  # noqa: S608
    row = await cursor.fetchone()
    assert row is not None
    return video_from_row(row)
