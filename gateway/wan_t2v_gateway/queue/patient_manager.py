"""A queue's manager that sits out the database's absence.

procrastinate's worker ends when one of these calls fails, and gives up every video that runs. A running video needs no
database; what it has to tell is told when there is one again.
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
_GONE = "not found"  # procrastinate's word for a job that is not this worker's any more


class PatientJobManager(JobManager):
    """The same, but absence of the database is waited out, and one queue can be paused."""

    def __init__(self, connector: BaseAsyncConnector, *, pausable: str) -> None:
        super().__init__(connector)
        self._pausable = pausable

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """None also while the queue is paused or the database is away: the worker asks again."""
        try:
            if queues and self._pausable in queues and (await self.connector.execute_query_one_async(PAUSED))["paused"]:
                return None
            return await super().fetch_job(queues, worker_id)
        except ConnectorException as error:
            _log.warning("no job could be fetched: %s", error)
            return None

    async def update_heartbeat(self, worker_id: int) -> None:
        """A missed beat is no reason to end."""
        try:
            await super().update_heartbeat(worker_id)
        except ConnectorException as error:
            _log.warning("the worker could not report: %s", error)

    async def finish_job(self, *arguments: Any, **named: Any) -> None:
        """Told until it is heard."""
        await _until_heard(lambda: super(PatientJobManager, self).finish_job(*arguments, **named))

    async def retry_job(self, *arguments: Any, **named: Any) -> None:
        """Told until it is heard."""
        await _until_heard(lambda: super(PatientJobManager, self).retry_job(*arguments, **named))

    async def listen_for_jobs(
        self, *, on_notification: NotificationCallback, queues: Iterable[str] | None = None
    ) -> None:
        """Listen again after the connection broke; polling bridges the gap."""
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
