"""The queue's own tables, made once, and an index of ours on them."""

import asyncio
from typing import LiteralString

import procrastinate
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from wan_t2v_gateway.database.pool import SCHEMA_LIMIT_S, Database

_LOCK = 7_240_116
_THERE: LiteralString = "SELECT to_regclass(%s) IS NOT NULL AS there"
# For the fetch's look at jobs that go before one in its lane. Older gateways need no index, and are not hindered by it.
_BY_LANE: LiteralString = (
    "CREATE INDEX gateway_jobs_by_lane ON procrastinate_jobs (lock, priority DESC, id) WHERE status = 'todo'"
)


async def apply_queue_schema(database: Database, app: procrastinate.App) -> None:
    """Create procrastinate's tables and our index if they are missing. Several gateways may start at the same time."""
    async with database.transaction(limit_s=SCHEMA_LIMIT_S) as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        if not await _is_there(connection, "procrastinate_jobs"):
            await asyncio.wait_for(app.schema_manager.apply_schema_async(), timeout=25)
        if not await _is_there(connection, "gateway_jobs_by_lane"):  # asked first: to make it waits for all writers
            await connection.execute(_BY_LANE)


async def _is_there(connection: AsyncConnection[DictRow], name: str) -> bool:
    row = await (await connection.execute(_THERE, [name])).fetchone()
    return bool(row and row["there"])
