"""A running job's record: which seconds count, and which attempt may write."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.progress import Update, begin, claim_folder, give_back, put_back, write
from wan_t2v_gateway.database.records import Video
from wan_t2v_gateway.database.usage import SPENT

HOUR_S = 3600.0
STEP = Update("step", {"step": 1}, worked_s=2 * HOUR_S)
Test = Callable[[Database, Video], Coroutine[Any, Any, None]]


@pytest.fixture
def run(start: Callable[..., Any], database_url: str) -> Callable[[Test], None]:
    """Run a test with the first attempt of a job, which began an hour ago."""
    video_id = start(workers=0).post()

    async def with_attempt(test: Test) -> None:
        async with Database(database_url) as database:
            video = await begin(database, video_id)
            assert video is not None
            await database.rows("UPDATE videos SET attempt_at = attempt_at - interval '1 hour'")
            await test(database, video)

    return lambda test: asyncio.run(with_attempt(test))


async def spent_s(database: Database) -> float:
    row = await database.row(f"SELECT {SPENT} AS spent_s FROM videos")  # noqa: S608
    assert row is not None
    return float(row["spent_s"])


async def status(database: Database) -> str:
    row = await database.row("SELECT status FROM videos")
    assert row is not None
    return str(row["status"])


async def lose_worker(database: Database, video: Video, worker: int | None = None) -> None:
    async with database.transaction() as connection:
        await give_back(connection, video.id, worker)


def test_the_time_in_the_servers_queue_does_not_count(run: Any) -> None:
    async def test(database: Database, video: Video) -> None:
        assert await spent_s(database) >= HOUR_S
        assert await write(database, video, Update("stage", {"stage": "queue"}, waits=True))
        assert await spent_s(database) == 0.0
        assert await write(database, video, STEP)
        assert 2 * HOUR_S <= await spent_s(database) < 3 * HOUR_S
        assert await write(database, video, STEP)  # only the first update tells since when it works
        assert await spent_s(database) < 3 * HOUR_S
        await put_back(database, video)
        spent = await spent_s(database)
        assert 2 * HOUR_S <= spent < 3 * HOUR_S and spent == await spent_s(database)

    run(test)


def test_a_worker_that_was_only_silent_goes_on_until_another_begins(run: Any) -> None:
    async def test(database: Database, video: Video) -> None:
        await lose_worker(database, video)
        assert (await status(database), await spent_s(database)) == ("queued", 0.0)
        assert await claim_folder(database, video, "a folder")
        assert await write(database, video, STEP)
        assert await status(database) == "in_progress"
        await lose_worker(database, video)
        second = await begin(database, video.id)
        assert second is not None and second.progress == {}
        assert not await write(database, video, STEP)
        assert not await claim_folder(database, video, "a folder")

    run(test)


def test_its_seconds_that_were_booked_when_it_was_given_back_are_not_booked_again(run: Any) -> None:
    async def test(database: Database, video: Video) -> None:
        (worker,) = await database.rows("INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id")
        await lose_worker(database, video, worker["id"])
        booked = await spent_s(database)
        assert HOUR_S <= booked < 2 * HOUR_S
        assert await write(database, video, STEP)
        assert booked <= await spent_s(database) < 2 * HOUR_S

    run(test)


def test_an_attempt_that_returned_its_job_writes_no_more(run: Any) -> None:
    async def test(database: Database, video: Video) -> None:
        await put_back(database, video)
        assert not await write(database, video, STEP)
        assert not await claim_folder(database, video, "a folder")
        assert await status(database) == "queued"

    run(test)
