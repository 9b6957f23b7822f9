"""Connections to Postgres, with a time limit on each call."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row, tuple_row
from psycopg_pool import AsyncConnectionPool

from wan_t2v_gateway.database.call_limit import DatabaseUnavailable, limited

_log = logging.getLogger(__name__)
_SCHEMA_LOCK = 7_240_114
_SCHEMA = ("schema.sql", "webhook_indexes.sql")  # a transaction each
SCHEMA_LIMIT_S = 600.0  # for indexes of millions of rows, and the wait for another gateway that builds them
_CONNECTION_LIMIT_S = 1.5
_START_LIMIT_S, _START_PAUSE_S = 30.0, 0.5
_TRANSACTION_LIMIT_S = 15.0  # also for a transaction whose caller has given up
PART_ROWS = 1000  # that one statement deletes well within CALL_LIMIT_S
CONNECT: dict[str, Any] = {"connect_timeout": 5, "target_session_attrs": "read-write"}
# What passes: the database is away, or a failover has left it read-only, which psycopg counts as an internal error.
AWAY = (TimeoutError, psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction)


def unavailable(error: BaseException) -> DatabaseUnavailable:
    """Make the DatabaseUnavailable of an error of AWAY."""
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return DatabaseUnavailable("the database can only be read at the moment")
    return DatabaseUnavailable(f"the database does not answer ({type(error).__name__})")


async def check_writable(connection: AsyncConnection[Any]) -> None:
    """Raise OperationalError for a broken connection, and close one of a database that can only be read.

    A pool gives no connection that fails this, and opens another. After a failover a former primary's connections may
    work on, read-only.
    """
    await connection.set_autocommit(True)
    try:
        cursor = connection.cursor(row_factory=tuple_row)
        row = await (await cursor.execute("SHOW transaction_read_only", prepare=False)).fetchone()
    finally:
        with contextlib.suppress(psycopg.Error):  # of a connection that is closed
            await connection.set_autocommit(False)
    if row == ("on",):
        await connection.close()
        raise psycopg.OperationalError("the database can only be read")


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
            kwargs={"row_factory": dict_row, **CONNECT},
            check=check_writable,
        )

    async def __aenter__(self) -> "Database":
        """Open the pool and create the tables, for a short-lived command."""
        await self.open()
        try:
            await self.apply_schema()
        except BaseException:
            await self.close()  # tasks of an open pool can hold up the end of the event loop for ever
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the pool; the database need not be reachable yet."""
        await self._pool.open()

    async def wait_until_up(self) -> None:
        """Wait for a database that comes up a little later. Raises DatabaseUnavailable after half a minute."""
        give_up_at = time.monotonic() + _START_LIMIT_S
        while True:
            try:
                await self.row("SELECT 1")
            except DatabaseUnavailable as error:
                if time.monotonic() > give_up_at:
                    raise
                _log.warning("waiting for the database: %s", error)
                await asyncio.sleep(_START_PAUSE_S)
            else:
                return

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close(timeout=2)

    async def apply_schema(self) -> None:
        """Create missing tables, columns and indexes."""
        for part in _SCHEMA:
            text = Path(__file__).with_name(part).read_text(encoding="utf-8")
            async with self.transaction(SCHEMA_LIMIT_S) as connection:
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_SCHEMA_LOCK])
                await connection.execute(text)

    @asynccontextmanager
    async def transaction(self, limit_s: float = _TRANSACTION_LIMIT_S) -> AsyncIterator[AsyncConnection[DictRow]]:
        """Yield a connection in a transaction, which ends with the block. Callers must be `limited`."""
        try:
            async with asyncio.timeout(limit_s), self._pool.connection() as connection:
                yield connection
        except AWAY as error:
            raise unavailable(error) from error

    @limited
    async def rows(self, query: LiteralString, arguments: Sequence[Any] | Mapping[str, Any] = ()) -> list[DictRow]:
        """Run one statement and return its rows."""
        async with self.transaction() as connection:
            cursor = await connection.execute(query, arguments or None)
            return await cursor.fetchall() if cursor.description else []

    async def row(self, query: LiteralString, arguments: Sequence[Any] | Mapping[str, Any] = ()) -> DictRow | None:
        """Run one statement and return its first row."""
        return next(iter(await self.rows(query, arguments)), None)

    async def delete_in_parts(self, query: LiteralString) -> None:
        """Repeat a DELETE of up to `%s` rows, which returns them, until it finds fewer.

        One statement for all rows can exceed its time limit; it is then rolled back, and so is each later try.
        """
        while len(await self.rows(query, [PART_ROWS])) >= PART_ROWS:
            pass
