"""Which job a worker takes: by priority, one per lane, and none because of one that is in its pause."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import procrastinate
import psycopg
import pytest
from procrastinate.exceptions import ConnectorException
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.queue.patient_manager import _FETCH
from wan_t2v_gateway.queue.schema import apply_queue_schema
from wan_t2v_gateway.queue.tasks import GENERATE, VIDEOS, WEBHOOKS, queue_app

from tests.waiting import LIMIT_S


class Lanes:
    """The queue, and a worker that takes jobs from it."""

    def __init__(self, app: procrastinate.App, worker: int) -> None:
        self._app, self._worker = app, worker

    async def add(self, name: str, *, lane: str | None = None, turn: int = 0, queue: str = VIDEOS) -> None:
        deferrer = self._app.configure_task(GENERATE, queue=queue, priority=-turn, lock=lane)
        await deferrer.defer_async(video_id=name)

    async def take(self) -> Any:
        return await self._app.job_manager.fetch_job([VIDEOS], self._worker)

    async def taken(self) -> str | None:
        job = await self.take()
        return None if job is None else str(job.task_kwargs["video_id"])

    async def pause(self, job: Any, seconds: float) -> None:
        await self._app.job_manager.retry_job(job, retry_at=datetime.now(UTC) + timedelta(seconds=seconds))

    @property
    def connector(self) -> Any:
        return self._app.job_manager.connector

    async def end_pauses(self) -> None:
        await self.connector.execute_query_async(
            "UPDATE procrastinate_jobs SET scheduled_at = now() WHERE scheduled_at > now()"
        )


@asynccontextmanager
async def lanes(url: str) -> AsyncIterator[Lanes]:
    app = queue_app(url)
    async with Database(url) as database, app.open_async():
        await apply_queue_schema(database, app)
        yield Lanes(app, await app.job_manager.register_worker())


@pytest.fixture
def run(database_url: str) -> Callable[[Callable[[Lanes], Coroutine[Any, Any, None]]], None]:
    def run_test(test: Callable[[Lanes], Coroutine[Any, Any, None]]) -> None:
        async def with_lanes() -> None:
            async with lanes(database_url) as queue:
                await test(queue)

        asyncio.run(with_lanes())

    return run_test


def test_jobs_go_by_turn_and_then_by_age(run: Any) -> None:
    async def test(queue: Lanes) -> None:
        await queue.add("a webhook", queue=WEBHOOKS)
        for name, turn in (("third", 1), ("first", 0), ("fourth", 1), ("second", 0)):
            await queue.add(name, turn=turn)
        assert [await queue.taken() for _ in range(5)] == ["first", "second", "third", "fourth", None]

    run(test)


def test_one_job_per_lane_runs(run: Any) -> None:
    async def test(queue: Lanes) -> None:
        for name, lane in (("a1", "a"), ("a2", "a"), ("b1", "b")):
            await queue.add(name, lane=lane)
        assert [await queue.taken() for _ in range(3)] == ["a1", "b1", None]

    run(test)


def test_a_job_in_its_pause_holds_back_no_other_of_its_lane_and_goes_first_after_it(run: Any) -> None:
    async def test(queue: Lanes) -> None:
        for turn, name in enumerate(("refused", "second", "third")):
            await queue.add(name, lane="a", turn=turn)
        await queue.pause(await queue.take(), 3600.0)
        second = await queue.take()
        assert second.task_kwargs == {"video_id": "second"}
        assert await queue.taken() is None
        await queue.pause(second, 3600.0)
        await queue.end_pauses()
        assert [await queue.taken() for _ in range(2)] == ["refused", None]

    run(test)


def test_a_job_that_returns_in_a_moment_keeps_its_lane(run: Any) -> None:
    async def test(queue: Lanes) -> None:
        for turn, name in enumerate(("refused", "second")):
            await queue.add(name, lane="a", turn=turn)
        await queue.pause(await queue.take(), 2.0)
        assert await queue.taken() in (None, "refused")

    run(test)


def test_a_job_whose_fetch_was_not_heard_is_taken_by_the_next_and_those_under_way_stay(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(queue: Lanes) -> None:
        for name, lane in (("running", None), ("unheard", "a"), ("next", "a")):
            await queue.add(name, lane=lane)
        assert await queue.taken() == "running"
        with monkeypatch.context() as patched:
            patched.setattr(queue.connector, "execute_query_all_async", answer_lost(queue.connector))
            assert await queue.taken() is None
        assert [await queue.taken() for _ in range(2)] == ["unheard", None]

    run(test)


def answer_lost(connector: Any) -> Callable[..., Coroutine[Any, Any, Any]]:
    """A call of the database whose answer gets lost with the connection."""
    execute = connector.execute_query_all_async

    async def call(*arguments: Any, **named: Any) -> Any:
        await execute(*arguments, **named)
        raise ConnectorException("the connection was closed")

    return call


def test_of_two_jobs_of_a_lane_that_are_taken_at_once_one_runs(run: Any, database_url: str) -> None:
    """The pause of the first ends while the second is being taken."""

    async def test(queue: Lanes) -> None:
        for turn, name in enumerate(("refused", "second")):
            await queue.add(name, lane="a", turn=turn)
        await queue.pause(await queue.take(), 3600.0)
        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute("UPDATE procrastinate_jobs SET status = 'doing' WHERE priority = -1")
            await queue.end_pauses()
            late = asyncio.create_task(queue.taken())
            waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            watching = psycopg.AsyncConnection.connect(database_url, autocommit=True)
            async with asyncio.timeout(LIMIT_S), await watching as watcher:
                while not (await watcher.execute(waiting)).rowcount:
                    await asyncio.sleep(0.01)
            await other.commit()
            assert await late is None

    run(test)


def test_a_job_that_leaves_its_lane_while_the_next_is_asked_for_is_not_overlooked(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a fetch without a job the worker forgets what woke it meanwhile."""

    async def test(queue: Lanes) -> None:
        for name in ("a1", "a2"):
            await queue.add(name, lane="a")
        first, execute = await queue.take(), queue.connector.execute_query_all_async

        async def answer_late(*arguments: Any, **named: Any) -> Any:
            rows = await execute(*arguments, **named)
            monkeypatch.undo()
            await queue.pause(first, 3600.0)
            return rows

        monkeypatch.setattr(queue.connector, "execute_query_all_async", answer_late)
        assert await queue.taken() == "a2"

    run(test)


def test_a_fetch_does_not_read_the_table_for_every_job_of_a_busy_lane(run: Any) -> None:
    async def test(queue: Lanes) -> None:
        await queue.connector.execute_query_async(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, args, status) "
            "SELECT 'videos', 'generate', 'lane ' || mod(n, 4), '{}', 'todo' FROM generate_series(1, 2000) AS n"
        )
        while await queue.take():
            pass
        explain: Any = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {_FETCH}"
        plans = []
        for _ in ("before Postgres has analyzed the table", "after"):
            (row,) = await queue.connector.execute_query_all_async(explain, queues=[VIDEOS], worker_id=1)
            plans.append(row["QUERY PLAN"][0]["Plan"])
            await queue.connector.execute_query_async("ANALYZE procrastinate_jobs")
        assert max(plan["Shared Hit Blocks"] for plan in plans) < 500
        assert "gateway_jobs_by_lane" in str(plans[0])

    run(test)
