"""The lost-jobs check: whose jobs it gives back, and when."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import procrastinate
import psycopg
import pytest
from procrastinate.jobs import Job, Status
from wan_t2v_gateway.database.call_limit import DatabaseUnavailable
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.progress import begin
from wan_t2v_gateway.queue import lost_jobs
from wan_t2v_gateway.queue.lost_jobs import AnsweringDatabase, give_back_stalled, put_back_lost
from wan_t2v_gateway.queue.tasks import VIDEOS, Queue, queue_app
from wan_t2v_gateway.services import Services
from wan_t2v_gateway.settings import Settings
from wan_t2v_gateway.storage.store import Store

from tests.unit.gateway.running import running_gateway
from tests.unit.gateway.severed_database import severable
from tests.unit.gateway.stepwise import serving_stepwise
from tests.waiting import LIMIT_S, wait_until

Start = Callable[..., Any]
SILENT_S = 15.0


@asynccontextmanager
async def checking_gateway(url: str, folder: Path) -> AsyncIterator[tuple[procrastinate.App, Services]]:
    app, database = queue_app(url), Database(url)
    await database.open()
    try:
        async with app.open_async():
            yield app, Services(Settings(stalled_s=SILENT_S), database, Queue(app), Store("", folder=folder))
    finally:
        await database.close()


@pytest.fixture
def video(start: Start) -> str:
    """A queued video that no worker takes."""
    return str(start(workers=0).post())


async def now(services: Services) -> float:
    row = await services.database.row("SELECT extract(epoch FROM clock_timestamp())::float8 AS now")
    assert row is not None
    return float(row["now"])


async def silent_worker(app: procrastinate.App, services: Services) -> Job:
    """The job of a worker that has been silent for an hour."""
    worker = await app.job_manager.register_worker()
    job = await app.job_manager.fetch_job([VIDEOS], worker)
    assert job is not None
    await services.database.rows("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'")
    return job


async def long_answering(services: Services) -> AnsweringDatabase:
    database = AnsweringDatabase(gap_s=3600.0)
    database.record_answer(await now(services) - 2 * SILENT_S)
    return database


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_an_answer_after_a_gap_begins_anew() -> None:
    database = AnsweringDatabase(gap_s=5.0)
    assert [database.record_answer(at) for at in (100.0, 104.0, 108.0)] == [0.0, 4.0, 8.0]
    # Then the database or the machine stood still.
    assert [database.record_answer(at) for at in (114.0, 117.0)] == [0.0, 3.0]
    database.record_failure()
    assert [database.record_answer(at) for at in (118.0, 119.0)] == [0.0, 1.0]
    assert [database.record_answer(at) for at in (60.0, 61.0)] == [0.0, 1.0]  # its clock was set back


def test_a_silent_workers_job_is_given_back_once_the_database_has_answered_as_long(
    video: str, database_url: str, tmp_path: Path
) -> None:
    async def test() -> None:
        async with checking_gateway(database_url, tmp_path) as (app, services):
            await silent_worker(app, services)
            assert await give_back_stalled(app, services, AnsweringDatabase(gap_s=3600.0)) == 0
            assert await give_back_stalled(app, services, await long_answering(services)) == 1
            row = await services.database.row("SELECT crashes FROM videos WHERE id = %s", [video])
            assert row == {"crashes": 1}

    run(test())


def test_its_seconds_count_until_it_reported_last_and_its_video_waits_again(
    video: str, database_url: str, tmp_path: Path
) -> None:
    async def test() -> None:
        async with checking_gateway(database_url, tmp_path) as (app, services):
            await silent_worker(app, services)
            await begin(services.database, video)
            await services.database.rows("UPDATE videos SET worked_s = 5, attempt_at = '2026-01-01 10:00Z'")
            await services.database.rows("UPDATE procrastinate_workers SET last_heartbeat = '2026-01-01 10:20Z'")
            assert await give_back_stalled(app, services, await long_answering(services)) == 1
            row = await services.database.row("SELECT status, worked_s, attempt_at FROM videos")
            assert row == {"status": "queued", "worked_s": 1205.0, "attempt_at": None}

    run(test())


def test_a_job_whose_workers_died_too_often_fails(video: str, database_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with checking_gateway(database_url, tmp_path) as (app, services):
            for _ in range(services.settings.crashes_allowed):
                await silent_worker(app, services)
                assert await give_back_stalled(app, services, await long_answering(services)) == 1
            row = await services.database.row("SELECT status, error FROM videos WHERE id = %s", [video])
            message = "3 workers or servers ended while they had it"
            assert row == {"status": "failed", "error": {"code": "server_error", "message": message}}

    run(test())


def test_of_two_gateways_that_saw_a_job_one_gives_it_back(
    video: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with checking_gateway(database_url, tmp_path) as (app, services):
            job = await silent_worker(app, services)

            async def seen_before(**named: Any) -> list[Job]:
                return [job]

            monkeypatch.setattr(app.job_manager, "get_stalled_jobs", seen_before)
            assert await give_back_stalled(app, services, await long_answering(services)) == 1
            assert await app.job_manager.fetch_job([VIDEOS], await app.job_manager.register_worker()) is not None
            assert await give_back_stalled(app, services, await long_answering(services)) == 0
            row = await services.database.row("SELECT crashes FROM videos WHERE id = %s", [video])
            assert row == {"crashes": 1}

    run(test())


@pytest.mark.parametrize("same_worker", [False, True])
def test_a_worker_that_lost_its_job_does_not_end_it_in_the_queue(
    video: str, database_url: str, tmp_path: Path, same_worker: bool
) -> None:
    async def test() -> None:
        async with checking_gateway(database_url, tmp_path) as (app, services):
            first = await silent_worker(app, services)
            await give_back_stalled(app, services, await long_answering(services))
            worker = first.worker_id if same_worker else await app.job_manager.register_worker()
            assert worker is not None
            second = await app.job_manager.fetch_job([VIDEOS], worker)
            assert second is not None and second.id == first.id
            await app.job_manager.finish_job(first, Status.SUCCEEDED, delete_job=True)
            await app.job_manager.retry_job(first)
            rows = await services.database.rows("SELECT status::text, worker_id FROM procrastinate_jobs")
            assert rows == [{"status": "doing", "worker_id": worker}]
            await app.job_manager.finish_job(second, Status.SUCCEEDED, delete_job=True)
            assert not await services.database.rows("SELECT FROM procrastinate_jobs")

    run(test())


def test_two_gateways_put_back_each_lost_video_once(start: Start, database_url: str, tmp_path: Path) -> None:
    front = start(workers=0)
    for _ in range(20):
        front.post()

    async def test() -> None:
        async with (
            checking_gateway(database_url, tmp_path) as (_, first),
            checking_gateway(database_url, tmp_path) as (_, second),
        ):
            await first.database.rows("DELETE FROM procrastinate_jobs")
            await first.database.rows("UPDATE videos SET created_at = created_at - interval '1 minute'")
            await first.database.rows("UPDATE videos SET status = 'in_progress', attempt_at = now()")
            assert sum(await asyncio.gather(put_back_lost(first), put_back_lost(second))) == 20
            row = await first.database.row("SELECT count(*) AS jobs FROM procrastinate_jobs")
            assert row == {"jobs": 20}
            waiting = "SELECT id FROM videos WHERE status = 'queued' AND attempt_at IS NULL"
            assert len(await first.database.rows(waiting)) == 20

    run(test())


def test_an_outage_longer_than_workers_may_be_silent_starts_no_second_attempt(
    database_url: str, tmp_path: Path
) -> None:
    """Two gateways: each could take the other's job while the other has not reported yet."""
    with serving_stepwise() as server, severable(database_url) as database, psycopg.connect(database_url) as direct:
        direct.autocommit = True
        settings = {"heartbeat_s": 0.2, "stalled_s": 5.0, "poll_s": 0.05, "server_url": server.url, "data": tmp_path}
        with (
            running_gateway(database_url=database.url, **settings) as gateway,
            running_gateway(database_url=database.url, **settings),
        ):
            video_id = gateway.post()
            assert server.began.wait(60)
            server.step(1)
            wait_until(lambda: direct.execute("SELECT FROM video_events WHERE kind = 'step'").rowcount == 1)
            database.sever()
            silent = "SELECT FROM procrastinate_workers WHERE last_heartbeat > now() - interval '6 seconds'"
            wait_until(lambda: direct.execute(silent).rowcount == 0)
            database.mend()
            reported = "SELECT FROM procrastinate_workers WHERE last_heartbeat > now() - interval '1 second'"
            wait_until(lambda: direct.execute(reported).rowcount == 4)
            server.finish()
            assert gateway.until(video_id, "completed")["attempts"] == 1
        assert len(server.requests) == 1
        assert direct.execute("SELECT crashes FROM videos").fetchone() == (0,)
        assert direct.execute("SELECT FROM procrastinate_jobs").rowcount == 0


def test_a_video_that_cannot_end_holds_back_no_other(
    start: Start, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("too slow")

    front = start(workers=0)
    cancelled, *_ = (front.post() for _ in range(4))

    async def test() -> None:
        async with checking_gateway(database_url, tmp_path) as (_, services):
            await services.database.rows("DELETE FROM procrastinate_jobs")
            await services.database.rows("UPDATE videos SET created_at = created_at - interval '1 minute'")
            await services.database.rows("UPDATE videos SET cancel_requested_at = now() WHERE id = %s", [cancelled])
            monkeypatch.setattr(Services, "end", fail)
            assert await put_back_lost(services) == 3

    run(test())


def test_dead_workers_jobs_are_given_back_although_no_lost_video_can_be_put_back(
    video: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = itertools.count()
    answered = asyncio.Event()

    async def fail(services: Services) -> int:
        raise DatabaseUnavailable("too slow")

    async def look(app: procrastinate.App, services: Services, database: AnsweringDatabase) -> None:
        if database.record_answer(float(next(answers))) >= 5.0:
            answered.set()

    async def test() -> None:
        async with checking_gateway(database_url, tmp_path) as (app, services):
            services = replace(services, settings=replace(services.settings, heartbeat_s=0.01))
            watch = asyncio.create_task(lost_jobs.watch_for_lost_jobs(app, services))
            await asyncio.wait_for(answered.wait(), LIMIT_S)
            watch.cancel()
            await asyncio.wait({watch})

    monkeypatch.setattr(lost_jobs, "put_back_lost", fail)
    monkeypatch.setattr(lost_jobs, "give_back_stalled", look)
    run(test())
