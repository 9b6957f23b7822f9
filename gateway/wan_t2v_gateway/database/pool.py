"""Connections to Postgres, with a time limit on each call."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from wan_t2v_gateway.database.limit import DatabaseUnavailable, limited

_SCHEMA_LOCK = 7_240_114
_CONNECTION_LIMIT_S = 1.5
_TRANSACTION_LIMIT_S = 15.0  # also for a transaction whose caller has given up


class Database:
    """A pool of connections. Queries raise DatabaseUnavailable while the database is unreachable."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._pool: AsyncConnectionPool[AsyncConnection[DictRow]] = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=16,
            timeout=_CONNECTION_LIMIT_S,
            open=False,
            reconnect_timeout=5,
            kwargs={"row_factory": dict_row, "connect_timeout": 5},
            check=AsyncConnectionPool.check_connection,
        )

    async def __aenter__(self) -> "Database":
        """Open the pool and create the tables, for a short-lived command."""
        await self.open()
        await self.apply_schema()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the pool; the database need not be reachable yet."""
        await self._pool.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close(timeout=2)

    async def apply_schema(self) -> None:
        """Create missing tables and columns."""
        text = Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")
        async with self.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_SCHEMA_LOCK])
            await connection.execute(text)

    @asynccontextmanager
    async def transaction(self, limit_s: float = _TRANSACTION_LIMIT_S) -> AsyncIterator[AsyncConnection[DictRow]]:
        """Yield a connection in a transaction, which ends with the block. Callers must be `limited`."""
        try:
            async with asyncio.timeout(limit_s), self._pool.connection() as connection:
                yield connection
        except (TimeoutError, psycopg.OperationalError) as error:
            raise DatabaseUnavailable(f"the database does not answer ({type(error).__name__})") from error

    @limited
    async def rows(self, query: LiteralString, arguments: Sequence[Any] | Mapping[str, Any] = ()) -> list[DictRow]:
        """Run one statement and return its rows."""
        async with self.transaction() as connection:
            cursor = await connection.execute(query, arguments or None)
            return await cursor.fetchall() if cursor.description else []

    async def row(self, query: LiteralString, arguments: Sequence[Any] | Mapping[str, Any] = ()) -> DictRow | None:
        """Run one statement and return its first row."""
        return next(iter(await self.rows(query, arguments)), None)
