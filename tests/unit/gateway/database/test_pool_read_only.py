"""A database that can only be read for a while, as after a failover: what is under way is not lost."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from wan_t2v_gateway.database import pool
from wan_t2v_gateway.database.call_limit import DatabaseUnavailable
from wan_t2v_gateway.database.listener import Listener
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.queue.tasks import queue_app

from tests.unit.gateway.running import running_gateway
from tests.unit.gateway.stepwise import serving_stepwise
from tests.waiting import LIMIT_S, wait_until

READ_ONLY = "SET SESSION default_transaction_read_only = on"
OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid()"
)


@contextmanager
def read_only(database: Any) -> Iterator[None]:
    """End all other connections, and let new ones only read."""
    name = psycopg.sql.Identifier(database.info.dbname)
    change = psycopg.sql.SQL("ALTER DATABASE {} {} default_transaction_read_only {}")
    database.execute(change.format(name, psycopg.sql.SQL("SET"), psycopg.sql.SQL("= on")))
    database.execute(OTHERS)
    try:
        yield
    finally:
        database.execute(change.format(name, psycopg.sql.SQL("RESET"), psycopg.sql.SQL("")))
        database.execute(OTHERS)


@pytest.fixture
def direct(database_url: str) -> Iterator[Any]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def test_a_write_of_a_read_only_transaction_is_an_outage(database_url: str) -> None:
    async def test() -> None:
        async with Database(database_url) as database:
            with pytest.raises(DatabaseUnavailable, match="can only be read at the moment"):
                async with database.transaction() as connection:
                    await connection.execute("SET TRANSACTION READ ONLY")
                    await connection.execute("INSERT INTO switches (name, value) VALUES ('x', '1')")

    asyncio.run(test())


def test_no_pool_keeps_a_connection_that_can_only_read(database_url: str) -> None:
    async def test() -> None:
        app = queue_app(database_url)
        async with Database(database_url) as database, app.open_async():
            await database.rows(READ_ONLY)
            await database.rows("INSERT INTO switches (name, value) VALUES ('x', '1')")
            connector: Any = app.connector
            await connector.execute_query_async(READ_ONLY)
            await connector.execute_query_async("INSERT INTO switches (name, value) VALUES ('y', '1')")

    asyncio.run(test())


def test_no_connection_is_made_while_the_database_can_only_be_read(
    database_url: str, direct: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_CONNECTION_LIMIT_S", 0.2)
    monkeypatch.setattr(pool, "_START_LIMIT_S", 120.0)

    async def test() -> None:
        database = Database(database_url)
        with read_only(direct):
            await database.open()
            with pytest.raises(DatabaseUnavailable):
                await database.row("SELECT 1")
        await database.wait_until_up()
        await database.close()

    asyncio.run(test())


def test_listeners_take_no_connection_of_such_a_database_either(
    database_url: str, direct: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Of several hosts in the URL they take the one that can be written."""

    async def test() -> None:
        app: Any = queue_app(database_url)
        async with app.open_async():
            listening = asyncio.create_task(Listener(database_url).listen())
            with read_only(direct):
                with pytest.raises(psycopg.OperationalError, match="read-only"):
                    async with app.connector._get_standalone_connection():
                        pass
                while "notifications stopped: connection failed" not in caplog.text:
                    await asyncio.sleep(0.01)
            listening.cancel()

    asyncio.run(asyncio.wait_for(test(), LIMIT_S))


def test_a_video_that_is_finished_meanwhile_is_recorded_and_calls_are_answered_503(
    database_url: str, direct: Any, tmp_path: Path
) -> None:
    with (
        serving_stepwise() as server,
        running_gateway(database_url=database_url, data=tmp_path, server_url=server.url) as gateway,
    ):
        video_id = gateway.post()
        assert server.began.wait(60)
        server.step(1)
        wait_until(lambda: direct.execute("SELECT FROM video_events WHERE kind = 'step'").rowcount)
        with read_only(direct):
            server.step(2)
            server.finish()
            wait_until(server.answers.empty)
            assert gateway.http.post("/v1/videos", json={"prompt": "x"}).status_code == 503
        video = gateway.until(video_id, "completed", "failed")
        assert (video["status"], video["attempts"], video["error"]) == ("completed", 1, None)
