"""The end of a job is recorded once, also if the call is repeated."""

import asyncio
from collections.abc import Callable
from typing import Any

from psycopg import AsyncConnection
from wan_t2v_gateway.database.ending import Ending, end
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.progress import begin

Start = Callable[..., Any]


async def no_webhook(connection: AsyncConnection[Any], webhook_id: str) -> int:
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
