"""Creation of a job: record and queue entry in one transaction, in the owner's order and fair between owners.

Every job gets a turn: its owner's last turn plus one, but at least the turn that runs now. Lower turns go first. So an
owner who sends a hundred jobs takes a hundred turns, and another owner's first job joins the turn that runs now.

An owner who may run two jobs at a time has two lanes. A job waits in the lane with fewer jobs. A lane is a lock of the
queue, which runs one job per lock at a time.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from wan_t2v_gateway.database.call_limit import limited
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.records import COLUMNS, Video, video_from_row
from wan_t2v_gateway.database.usage import Allowance, check_allowance

# connection, video id, turn, lane -> id of the queue's job
Enqueue = Callable[[AsyncConnection[DictRow], str, int, str | None], Awaitable[int]]
_OWNER_LOCK = 7_240_115
_INSERT = """
INSERT INTO videos
    (id, owner, model, fields, turn, lane, remixed_from, idempotency_key, body_hash, webhook_url, trace)
SELECT %(id)s, %(owner)s, %(model)s, %(fields)s,
       GREATEST(
           COALESCE((SELECT max(turn) + 1 FROM videos WHERE owner = %(owner)s), 0),
           COALESCE((SELECT max(turn) FROM videos WHERE started_at IS NOT NULL), 0)
       ),
       %(lane)s, %(remixed_from)s, %(idempotency_key)s, %(body_hash)s, %(webhook_url)s, %(trace)s
RETURNING turn
"""


class KeyOfAnotherBody(Exception):
    """The idempotency key was used for a request with another body."""


@dataclass(frozen=True)
class NewVideo:
    """Values of a new job's record."""

    id: str
    owner: str
    model: str
    fields: dict[str, Any]
    webhook_url: str = ""
    remixed_from: str | None = None
    idempotency_key: str | None = None
    body_hash: str | None = None
    allowance: Allowance = Allowance()
    trace: dict[str, str] = field(default_factory=dict)


@limited
async def create(database: Database, new: NewVideo, enqueue: Enqueue) -> Video:
    """Record and queue a job, or return the one that this idempotency key made before.

    Raises KeyOfAnotherBody, TooManyJobs, DatabaseUnavailable.
    """
    async with database.transaction() as connection:
        # Serialises one owner's requests, so that turns and queue numbers have the same order.
        await connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_OWNER_LOCK % 2**31, new.owner])
        before = await _made_before(connection, new)
        if before is not None:
            return before
        await check_allowance(connection, new.owner, new.allowance)
        lane = await _lane(connection, new)
        as_json = {"fields": Jsonb(new.fields), "trace": Jsonb(new.trace)}
        cursor = await connection.execute(_INSERT, {**vars(new), **as_json, "lane": lane})
        row = await cursor.fetchone()
        assert row is not None
        job = await enqueue(connection, new.id, row["turn"], lane_name(new.owner, lane))
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


async def _lane(connection: AsyncConnection[DictRow], new: NewVideo) -> int | None:
    """Return the lane with the fewest unfinished jobs; None for an owner without a limit on running jobs."""
    if new.allowance.most_running is None:
        return None
    cursor = await connection.execute(
        "SELECT lanes.lane FROM generate_series(0, %s) AS lanes (lane) LEFT JOIN videos ON owner = %s "
        "AND videos.lane = lanes.lane AND status IN ('queued', 'in_progress') GROUP BY lanes.lane "
        "ORDER BY count(videos.id), lanes.lane LIMIT 1",
        [new.allowance.most_running - 1, new.owner],
    )
    row = await cursor.fetchone()
    return None if row is None else int(row["lane"])


def lane_name(owner: str, lane: int | None) -> str | None:
    """Return the name of a lane's lock in the queue."""
    return None if lane is None else f"{owner}/{lane}"


async def _read(connection: AsyncConnection[DictRow], video_id: str) -> Video:
    cursor = await connection.execute(f"SELECT {COLUMNS} FROM videos WHERE id = %s", [video_id])  # noqa: S608
    row = await cursor.fetchone()
    assert row is not None
    return video_from_row(row)
