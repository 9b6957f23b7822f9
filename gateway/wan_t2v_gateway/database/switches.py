"""State that all gateways of a database share: whether the queue is paused, and the server's limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

from wan_t2v_gateway.database.pool import Database

PAUSED: LiteralString = "SELECT EXISTS (SELECT FROM switches WHERE name = 'paused') AS paused"


@dataclass(frozen=True)
class QueueState:
    """State of the queue; `since` and `reason` are those of a pause."""

    queued: int
    in_progress: int
    paused: bool
    since: datetime | None
    reason: str


async def pause(database: Database, reason: str) -> None:
    """Pause the queue: no worker takes another job, running ones continue. While paused, this changes the reason."""
    await database.rows(
        "INSERT INTO switches (name, value) VALUES ('paused', jsonb_build_object('since', now(), 'reason', %s::text)) "
        "ON CONFLICT (name) DO UPDATE SET value = switches.value || %s",
        [reason, Jsonb({"reason": reason})],
    )


async def resume(database: Database) -> None:
    """Resume the queue: workers take jobs again."""
    await database.rows("DELETE FROM switches WHERE name = 'paused'")


async def queue_state(database: Database) -> QueueState:
    """Read the numbers of waiting and running jobs of all owners, and whether the queue is paused."""
    row = await database.row(
        "SELECT count(*) FILTER (WHERE status = 'queued') AS queued, count(*) FILTER (WHERE status = 'in_progress') AS "
        "in_progress, (SELECT value FROM switches WHERE name = 'paused') AS paused FROM videos "
        "WHERE status IN ('queued', 'in_progress')"
    )
    assert row is not None
    value = row["paused"] or {}
    since = datetime.fromisoformat(value["since"]) if value else None
    return QueueState(row["queued"], row["in_progress"], row["paused"] is not None, since, value.get("reason", ""))


async def is_paused(database: Database) -> bool:
    """Whether the queue is paused."""
    row = await database.row(PAUSED)
    return bool(row and row["paused"])


async def keep_server_limits(database: Database, document: Mapping[str, Any]) -> None:
    """Store the limits that a server published last."""
    await database.rows(
        "INSERT INTO switches (name, value) VALUES ('server_limits', %s) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [Jsonb(dict(document))],
    )


async def server_limits(database: Database) -> dict[str, Any] | None:
    """Read the limits that a server published last; None if there are none."""
    row = await database.row("SELECT value FROM switches WHERE name = 'server_limits'")
    return None if row is None else dict(row["value"])
