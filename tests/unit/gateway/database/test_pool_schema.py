"""The schema at a start: it has time for large tables, and never waits in a circle with a removal."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from wan_t2v_gateway.database import videos
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.queue.schema import apply_queue_schema
from wan_t2v_gateway.queue.tasks import queue_app

from tests.waiting import LIMIT_S

LOCKED = (
    "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event <> 'advisory' "
    "AND datname = current_database()"
)


@asynccontextmanager
async def waiting_for(connection: AsyncConnection[Any], url: str, work: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """Yield the task of the work once it waits for a lock of the connection."""
    task = asyncio.create_task(work)
    async with await AsyncConnection.connect(url, autocommit=True) as watcher, asyncio.timeout(LIMIT_S):
        while not (await watcher.execute(LOCKED)).rowcount:
            assert not task.done(), task
            await asyncio.sleep(0.01)
        yield task
        await connection.commit()
        await task


def test_its_indexes_may_take_minutes(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    transaction = Database.transaction

    def limited(self: Database, limit_s: float = 15.0) -> Any:
        limits.append(limit_s)
        return transaction(self, limit_s)

    async def apply() -> None:
        app, database = queue_app(database_url), Database(database_url)
        await database.open()
        try:
            async with app.open_async():
                await database.apply_schema()
                await apply_queue_schema(database, app)
        finally:
            await database.close()

    monkeypatch.setattr(Database, "transaction", limited)
    asyncio.run(apply())
    assert min(limits) >= 600.0


def test_a_start_and_an_older_gateways_removal_do_not_wait_for_each_other(database_url: str) -> None:
    """That removal writes to webhooks, and then to videos."""

    async def test() -> None:
        async with Database(database_url) as database, await AsyncConnection.connect(database_url) as older:
            await older.execute("DELETE FROM webhooks")
            async with waiting_for(older, database_url, database.apply_schema()):
                await older.execute("DELETE FROM videos")

    asyncio.run(test())


def test_a_removal_takes_the_webhook_too_that_an_end_adds_meanwhile(database_url: str, patience: None) -> None:
    """It waits for the end at the video's row, as every transaction does, and looks for webhooks after that."""
    with psycopg.connect(database_url, autocommit=True) as direct:

        async def test() -> None:
            async with Database(database_url) as database, await AsyncConnection.connect(database_url) as ending:
                direct.execute("INSERT INTO videos (id, owner, model, fields, turn) VALUES ('v', 'a', '', '{}', 0)")
                await ending.execute("UPDATE videos SET status = 'completed'")
                await ending.execute(
                    "INSERT INTO webhooks (id, video_id, owner, url, body) VALUES ('', 'v', '', '', '')"
                )
                async with waiting_for(ending, database_url, videos.remove(database, "v")):
                    pass

        asyncio.run(test())
        assert direct.execute("SELECT FROM videos").rowcount == direct.execute("SELECT FROM webhooks").rowcount == 0
