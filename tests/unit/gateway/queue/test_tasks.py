"""What the queue is given: deliveries in their owner's lanes, and errors of an outage told apart from others."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from procrastinate.exceptions import ConnectorException
from psycopg.rows import dict_row
from wan_t2v_gateway.database import call_limit
from wan_t2v_gateway.database.call_limit import DatabaseUnavailable
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.queue.patient_manager import PatientJobManager
from wan_t2v_gateway.queue.schema import apply_queue_schema
from wan_t2v_gateway.queue.tasks import DELIVERY_LANES, VIDEOS, WEBHOOKS, Queue, Retries, TryAgain, queue_app

from tests.unit.gateway.severed_database import severable
from tests.waiting import LIMIT_S

Test = Callable[[Queue, Database], Coroutine[Any, Any, None]]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Queue, Database]]:
    app = queue_app(url)
    async with Database(url) as database, app.open_async():
        await apply_queue_schema(database, app)
        yield Queue(app), database


def run(url: str, test: Test) -> None:
    async def with_queue() -> None:
        async with opened(url) as (queue, database):
            await test(queue, database)

    asyncio.run(with_queue())


async def add(queue: Queue, database: Database, owner: str, number: int) -> None:
    async with database.transaction() as connection:
        for n in range(number):
            await queue.add_webhook(connection, f"{owner} {n}", owner)


async def take_all(queue: Queue) -> list[Any]:
    manager, jobs = queue.app.job_manager, []
    worker = await manager.register_worker()
    while job := await manager.fetch_job([WEBHOOKS], worker):
        jobs.append(job)
    return jobs


def webhooks(jobs: list[Any]) -> list[str]:
    return [job.task_kwargs["webhook_id"] for job in jobs]


def test_an_owner_has_a_few_deliveries_at_a_time_and_others_have_theirs(database_url: str) -> None:
    async def test(queue: Queue, database: Database) -> None:
        await add(queue, database, "many", 200)
        await add(queue, database, "few", 1)
        owners = [name.split()[0] for name in webhooks(await take_all(queue))]
        assert owners == ["many"] * DELIVERY_LANES + ["few"]

    run(database_url, test)


def test_a_delivery_that_failed_goes_after_those_that_did_not(database_url: str) -> None:
    async def test(queue: Queue, database: Database) -> None:
        await add(queue, database, "anna", 1)
        (failed,) = await take_all(queue)
        decision = Retries().get_retry_decision(exception=TryAgain("500", 0.0), job=failed)
        assert decision is not None
        await queue.app.job_manager.retry_job(failed, decision.retry_at, decision.priority)
        await add(queue, database, "ben", 1)
        assert webhooks(await take_all(queue)) == ["ben 0", "anna 0"]

    run(database_url, test)


def test_a_video_that_is_refused_keeps_its_turn(database_url: str) -> None:
    async def test(queue: Queue, database: Database) -> None:
        async with database.transaction() as connection:
            await queue.add_video(connection, "video_1", 7, None)
        manager = queue.app.job_manager
        job = await manager.fetch_job([VIDEOS], await manager.register_worker())
        assert job is not None
        decision = Retries().get_retry_decision(exception=TryAgain("busy", 0.0), job=job)
        assert decision is not None and decision.priority is None

    run(database_url, test)


@pytest.mark.parametrize("kind", ["video", "webhook"])
def test_a_connection_that_breaks_while_a_job_is_added_is_an_outage(database_url: str, kind: str) -> None:
    async def test(queue: Queue, database: Database) -> None:
        async with await psycopg.AsyncConnection.connect(database_url, row_factory=dict_row) as connection:
            await database.rows("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
            with pytest.raises(DatabaseUnavailable):
                if kind == "video":
                    await queue.add_video(connection, "video_1", 0, None)
                else:
                    await queue.add_webhook(connection, "msg_1", "anna")

    run(database_url, test)


def test_a_cancellation_that_the_database_does_not_hear_is_an_outage(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        with severable(database_url) as database:
            async with opened(database.url) as (queue, _):
                monkeypatch.setattr(call_limit, "CALL_LIMIT_S", 0.2)
                database.sever()
                with pytest.raises(DatabaseUnavailable):
                    await queue.cancel(1)

    asyncio.run(test())


def test_an_error_that_does_not_pass_is_no_outage(database_url: str) -> None:
    """Else it would be repeated for ever."""

    async def test(queue: Queue, database: Database) -> None:
        with pytest.raises(ConnectorException):
            async with database.transaction() as connection:
                await queue.add_video(connection, "video_1", 2**40, None)

    run(database_url, test)


@pytest.mark.parametrize("outcome", [None, TryAgain("500", 3600.0)])
def test_a_burst_of_an_owners_deliveries_does_not_wait_for_the_workers_polls(
    database_url: str, monkeypatch: pytest.MonkeyPatch, outcome: TryAgain | None
) -> None:
    """Whether each is delivered or tried again later: a job that leaves its lane tells the worker of it."""
    tried: set[str] = set()
    done, idle = asyncio.Event(), asyncio.Event()
    fetch = PatientJobManager.fetch_job

    async def note_idle(self: PatientJobManager, **arguments: Any) -> Any:
        job = await fetch(self, **arguments)
        (idle.clear if job else idle.set)()
        return job

    async def deliver(context: Any, webhook_id: str) -> None:
        await idle.wait()  # the worker has found no other job
        tried.add(webhook_id)
        if len(tried) == 3 * DELIVERY_LANES:
            done.set()
        if outcome is not None:
            raise outcome

    async def test(queue: Queue, database: Database) -> None:
        monkeypatch.setattr(PatientJobManager, "fetch_job", note_idle)
        await add(queue, database, "anna", 3 * DELIVERY_LANES)
        worker = asyncio.create_task(
            queue.app.run_worker_async(
                queues=[WEBHOOKS],
                concurrency=4 * DELIVERY_LANES,
                fetch_job_polling_interval=3600.0,
                additional_context={"deliver_webhook": deliver},
                install_signal_handlers=False,
            )
        )
        try:
            await asyncio.wait_for(done.wait(), LIMIT_S)
        finally:
            worker.cancel()
            await asyncio.wait({worker})

    run(database_url, test)
