"""A job manager for procrastinate that waits while the database is away.

procrastinate's worker ends if one of these calls fails, and aborts every running video. But a running video needs no
database: its progress and end are written when the database is back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from procrastinate.connector import BaseAsyncConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job
from procrastinate.manager import JobManager, NotificationCallback

from wan_t2v_gateway.database.switches import PAUSED

_log = logging.getLogger(__name__)
_PAUSE_S = 1.0
_GONE = "not found"  # procrastinate's message for a job that this worker no longer owns


class PatientJobManager(JobManager):
    """A JobManager that waits while the database is away, and whose queue `pausable` can be paused."""

    def __init__(self, connector: BaseAsyncConnector, *, pausable: str) -> None:
        super().__init__(connector)
        self._pausable = pausable

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """Fetch a job; None also while the queue is paused or the database is away. The worker then asks again."""
        try:
            if queues and self._pausable in queues and (await self.connector.execute_query_one_async(PAUSED))["paused"]:
                return None
            return await super().fetch_job(queues, worker_id)
        except ConnectorException as error:
            _log.warning("no job could be fetched: %s", error)
            return None

    async def update_heartbeat(self, worker_id: int) -> None:
        """Send a heartbeat; a failure is only logged."""
        try:
            await super().update_heartbeat(worker_id)
        except ConnectorException as error:
            _log.warning("the worker could not report: %s", error)

    async def finish_job(self, *arguments: Any, **named: Any) -> None:
        """Record a job's end; retry until the database accepts it."""
        await _until_heard(lambda: super(PatientJobManager, self).finish_job(*arguments, **named))

    async def retry_job(self, *arguments: Any, **named: Any) -> None:
        """Return a job to the queue; retry until the database accepts it."""
        await _until_heard(lambda: super(PatientJobManager, self).retry_job(*arguments, **named))

    async def listen_for_jobs(
        self, *, on_notification: NotificationCallback, queues: Iterable[str] | None = None
    ) -> None:
        """Listen for new jobs, and reconnect whenever the connection breaks; polling covers the gap."""
        while True:
            try:
                await super().listen_for_jobs(on_notification=on_notification, queues=queues)
            except ConnectorException as error:
                _log.warning("the queue's notifications stopped: %s", error)
            await asyncio.sleep(_PAUSE_S)


async def _until_heard(tell: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            return await tell()
        except ConnectorException as error:
            if _GONE in str(error.__cause__ or error):
                return None
            _log.warning("the queue could not be told how a job ended: %s", error)
            await asyncio.sleep(_PAUSE_S)
