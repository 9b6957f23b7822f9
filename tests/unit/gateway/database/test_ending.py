"""The end of a job is recorded once, also if the call is repeated; what never began is kept up to a number."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from psycopg import AsyncConnection
from wan_t2v_gateway.database import ending
from wan_t2v_gateway.database.ending import Ending, end
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.progress import begin

Start = Callable[..., Any]


async def no_webhook(connection: AsyncConnection[Any], webhook_id: str, owner: str) -> int:
    raise AssertionError("the job has no webhook")


def test_a_repeated_end_is_told_as_recorded_and_another_attempts_is_not(start: Start, database_url: str) -> None:
    """The first call may have timed out although the database recorded it: then its files must stay."""
    video_id = start(workers=0).post()

    async def test() -> None:
        async with Database(database_url) as database:
            assert await begin(database, video_id) is not None
            completed = {folder: Ending("completed", folder=f"{video_id}/{folder}") for folder in (1, 2)}
            for _ in range(2):
                recorded = await end(database, video_id, completed[1], queue_webhook=no_webhook, attempt=1)
                assert recorded is not None and recorded.files_folder == f"{video_id}/1"
            assert await end(database, video_id, completed[2], queue_webhook=no_webhook, attempt=2) is None
            assert await end(database, video_id, Ending("failed"), queue_webhook=no_webhook) is None
            (row,) = await database.rows("SELECT count(*) AS ends FROM video_events WHERE kind = 'completed'")
            assert row == {"ends": 1}

    asyncio.run(test())


async def queue_webhook(connection: AsyncConnection[Any], webhook_id: str, owner: str) -> int:
    return 1


def test_of_an_owners_jobs_that_were_cancelled_before_they_began_the_last_ones_stay(
    start: Start, owner: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an owner with every limit could fill the database, since no limit counts them."""
    monkeypatch.setattr(ending, "_NEVER_BEGUN_KEPT", 2)
    gateway, anna, ben = start(workers=0), owner("anna"), owner("ben")
    bens, begun, *never_begun = (
        gateway.post(key, webhook_url="http://1.1.1.1/") for key in (ben, anna, anna, anna, anna, anna)
    )
    waiting = gateway.post(anna)

    async def cancel_all() -> list[set[str]]:
        async with Database(database_url) as database:
            assert await begin(database, begun) is not None
            for video_id in (bens, begun, *never_begun):
                await end(database, video_id, Ending("cancelled"), queue_webhook=queue_webhook)
            queries: Any = (
                "SELECT id FROM videos",
                "SELECT video_id AS id FROM webhooks",
                "SELECT owner AS id FROM work",
            )
            return [{row["id"] for row in await database.rows(query)} for query in queries]

    videos, webhooks, work = asyncio.run(cancel_all())
    assert videos == {bens, begun, *never_begun[-2:], waiting} and webhooks == videos - {waiting}
    assert work == {"anna"}  # for the job that began


def test_one_end_forgets_few_of_a_large_stock_so_that_it_ends_in_time(
    start: Start, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stock from before the bound: all at once would exceed the time of the call, which then never succeeds."""
    monkeypatch.setattr(ending, "_NEVER_BEGUN_KEPT", 2)
    video_id = start(workers=0).post()

    async def cancel() -> int:
        async with Database(database_url) as database:
            await database.rows(
                "INSERT INTO videos (id, owner, model, fields, turn, status, completed_at) SELECT 'old ' || n, "
                "(SELECT owner FROM videos), '', '{}', 0, 'cancelled', now() FROM generate_series(1, 250) AS n"
            )
            assert await end(database, video_id, Ending("cancelled"), queue_webhook=no_webhook) is not None
            return len(await database.rows("SELECT id FROM videos"))

    assert asyncio.run(cancel()) == 151
