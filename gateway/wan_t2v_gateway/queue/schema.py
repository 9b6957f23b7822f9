"""The queue's own tables, made once."""

import asyncio

import procrastinate

from wan_t2v_gateway.database.pool import Database

_LOCK = 7_240_116


async def apply_queue_schema(database: Database, app: procrastinate.App) -> None:
    """Create procrastinate's tables if they are missing. Several gateways may start at the same time."""
    async with database.transaction(limit_s=30) as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        cursor = await connection.execute("SELECT to_regclass('procrastinate_jobs') IS NOT NULL AS there")
        row = await cursor.fetchone()
        if row is None or not row["there"]:
            await asyncio.wait_for(app.schema_manager.apply_schema_async(), timeout=25)
