"""The queue's tasks, and their retries."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import procrastinate
from procrastinate.job_context import JobContext
from procrastinate.jobs import Job
from procrastinate.retry import BaseRetryStrategy, RetryDecision
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from wan_t2v_gateway.database.call_limit import DatabaseUnavailable
from wan_t2v_gateway.queue.patient_manager import PatientJobManager

VIDEOS, WEBHOOKS = "videos", "webhooks"
GENERATE, DELIVER = "generate", "deliver"


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
    """Retry a task that raised TryAgain, that a stopping worker cancelled, or that lost the database."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Decide on a retry; None ends the task as failed."""
        if isinstance(exception, TryAgain):
            return RetryDecision(retry_at=exception.at)
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
        kwargs={"connect_timeout": 5},
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


class Queue:
    """The gateway's operations on the queue."""

    def __init__(self, app: procrastinate.App) -> None:
        self.app = app

    async def add_video(self, connection: AsyncConnection[DictRow], video_id: str, turn: int, lane: str | None) -> int:
        """Queue a job in the caller's transaction; lower turns go first, and one job per lane runs. Returns its id."""
        return await self._add(connection, GENERATE, priority=-turn, lock=lane, video_id=video_id)

    async def add_webhook(self, connection: AsyncConnection[DictRow], webhook_id: str) -> int:
        """Queue a delivery in the caller's transaction. Returns the id of the queue's job."""
        return await self._add(connection, DELIVER, priority=0, webhook_id=webhook_id)

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
        return await deferrer.defer_async(**arguments)

    async def cancel(self, job: int) -> bool:
        """Remove a waiting job, or abort it at the worker that runs it. Returns False if it had ended."""
        return await self.app.job_manager.cancel_job_by_id_async(job, abort=True, delete_job=True)
