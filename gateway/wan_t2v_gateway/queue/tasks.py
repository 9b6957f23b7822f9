"""The queue's tasks, and their retries."""

import asyncio
import contextlib
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import procrastinate
from procrastinate.exceptions import ConnectorException
from procrastinate.job_context import JobContext
from procrastinate.jobs import Job
from procrastinate.retry import BaseRetryStrategy, RetryDecision
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg_pool import AsyncConnectionPool

from wan_t2v_gateway.database.call_limit import DatabaseUnavailable, limited
from wan_t2v_gateway.database.pool import AWAY, CONNECT, check_writable, unavailable
from wan_t2v_gateway.queue.patient_manager import PatientJobManager

VIDEOS, WEBHOOKS = "videos", "webhooks"
GENERATE, DELIVER = "generate", "deliver"
DELIVERY_LANES = 4  # per owner: deliveries at a time, by all gateways together


class TryAgain(Exception):
    """The task cannot be done now; the queue retries it at the time `at`, after a pause of `seconds`.

    `outage_s` is the time that the task has waited for something that was away, with that pause.
    """

    def __init__(self, reason: str, seconds: float, *, outage_s: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds, self.outage_s = seconds, outage_s
        self.begin_pause()

    def begin_pause(self) -> None:
        """Let the pause begin now."""
        self.at = datetime.now(UTC) + timedelta(seconds=self.seconds)


class Retries(BaseRetryStrategy):
    """Retry a task that raised TryAgain, that a stopping worker cancelled, or that lost the database.

    A delivery that failed goes after those that failed less often. A video keeps its turn.
    """

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Decide on a retry; None ends the task as failed."""
        if isinstance(exception, TryAgain):
            priority = job.priority - 1 if job.task_name == DELIVER else None
            return RetryDecision(retry_at=exception.at, priority=priority)
        if isinstance(exception, asyncio.CancelledError | DatabaseUnavailable):
            return RetryDecision(retry_in={"seconds": 0})
        return None


def queue_app(database_url: str) -> procrastinate.App:
    """Make the queue; its tables are in the same database as the records."""
    connector = procrastinate.PsycopgConnector(
        conninfo=database_url,
        min_size=1,
        max_size=8,
        timeout=5,
        reconnect_timeout=5,  # else the pause between tries grows to minutes, and workers are silent as long
        kwargs=CONNECT,
        pool_factory=_writable_pool,
    )
    app = procrastinate.App(connector=connector)
    app.job_manager = PatientJobManager(connector, pausable=VIDEOS)

    async def generate(context: JobContext, video_id: str) -> None:
        await context.additional_context["run_video"](context, video_id)

    async def deliver(context: JobContext, webhook_id: str) -> None:
        await context.additional_context["deliver_webhook"](context, webhook_id)

    for task, name, queue in ((generate, GENERATE, VIDEOS), (deliver, DELIVER, WEBHOOKS)):
        app.task(name=name, queue=queue, pass_context=True, retry=Retries())(task)
    return app


def _writable_pool(**options: Any) -> AsyncConnectionPool:
    return AsyncConnectionPool(**{**options, "check": check_writable})


class Queue:
    """The gateway's operations on the queue. They raise DatabaseUnavailable while the database is unreachable."""

    def __init__(self, app: procrastinate.App) -> None:
        self.app = app

    async def add_video(self, connection: AsyncConnection[DictRow], video_id: str, turn: int, lane: str | None) -> int:
        """Queue a job in the caller's transaction; lower turns go first, and one job per lane runs. Returns its id."""
        return await self._add(connection, GENERATE, priority=-turn, lock=lane, video_id=video_id)

    async def add_webhook(self, connection: AsyncConnection[DictRow], webhook_id: str, owner: str) -> int:
        """Queue a delivery in the caller's transaction, in one of its owner's lanes. Returns the id of the queue's job.

        So receivers of one owner that do not answer hold a few of the workers' places, and not all.
        """
        lane = f"{owner}/{zlib.crc32(webhook_id.encode()) % DELIVERY_LANES}/{WEBHOOKS}"  # no lane of videos
        return await self._add(connection, DELIVER, priority=0, lock=lane, webhook_id=webhook_id)

    async def _add(
        self,
        connection: AsyncConnection[DictRow],
        task: str,
        *,
        priority: int,
        lock: str | None = None,
        **arguments: Any,
    ) -> int:
        queue = VIDEOS if task == GENERATE else WEBHOOKS
        deferrer = self.app.configure_task(task, queue=queue, priority=priority, lock=lock, connection=connection)
        with _telling_outages():
            return await deferrer.defer_async(**arguments)

    @limited
    async def cancel(self, job: int) -> bool:
        """Remove a waiting job, or abort it at the worker that runs it. Returns False if it had ended."""
        with _telling_outages():
            return await self.app.job_manager.cancel_job_by_id_async(job, abort=True, delete_job=True)


@contextlib.contextmanager
def _telling_outages() -> Iterator[None]:
    """Raise DatabaseUnavailable for an outage, which procrastinate reports as an error like any other."""
    try:
        yield
    except ConnectorException as error:
        if isinstance(error.__cause__, AWAY):
            raise unavailable(error.__cause__) from error
        raise
