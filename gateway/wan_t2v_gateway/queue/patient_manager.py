"""A job manager for procrastinate that waits while the database is away.

procrastinate's worker ends if one of these calls fails, and aborts every running video. But a running video needs no
database: its progress and end are written when the database is back.

A job that was given to another worker meanwhile is that worker's: procrastinate's own statements look only at the job's
id, and an earlier worker's end of the job would remove it from the queue while it runs.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import LiteralString

from procrastinate.connector import BaseAsyncConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager, NotificationCallback

from wan_t2v_gateway.database.call_limit import DatabaseUnavailable, limited
from wan_t2v_gateway.database.switches import PAUSED

_log = logging.getLogger(__name__)
_PAUSE_S = 1.0
# A row while the job is still this try of this worker, which has the row's lock until the statement ends. `attempts`
# tells two tries of one worker apart.
OWN_TRY: LiteralString = (
    "WITH own_try AS MATERIALIZED (SELECT id FROM procrastinate_jobs WHERE id = %(job_id)s AND status = 'doing' "
    "AND worker_id IS NOT DISTINCT FROM %(worker_id)s::bigint AND attempts = %(attempts)s FOR UPDATE) "
)
# Without its row a worker could take no job any more: the row is a foreign key of the job.
_HEARTBEAT: LiteralString = (
    "INSERT INTO procrastinate_workers (id) OVERRIDING SYSTEM VALUE VALUES (%(worker_id)s) "
    "ON CONFLICT (id) DO UPDATE SET last_heartbeat = now()"
)
# `procrastinate_fetch_job_v2` with one change: a paused job does not block later jobs of its lane, except in the last
# three seconds of its pause. Else a job that is refused again and again would block its lane. In those seconds it does,
# since the clocks of gateways and database differ, and a later job may take long. The two looks at a lane are apart, so
# that each has its index: as one they read the table for every job of a lane that is busy.
# Two jobs of a lane that are taken at once violate an index, so that one fetch fails.
_FETCH: LiteralString = """
WITH candidate AS (
    SELECT id FROM procrastinate_jobs AS jobs
    WHERE status = 'todo' AND (%(queues)s::varchar[] IS NULL OR queue_name = ANY(%(queues)s::varchar[]))
    AND (scheduled_at IS NULL OR scheduled_at <= now())
    AND (lock IS NULL OR (
        NOT EXISTS (SELECT FROM procrastinate_jobs AS others WHERE others.lock = jobs.lock AND others.status = 'doing')
        AND NOT EXISTS (
            SELECT FROM procrastinate_jobs AS others WHERE others.lock = jobs.lock AND others.status = 'todo'
            AND (others.scheduled_at IS NULL OR others.scheduled_at <= now() + interval '3 seconds')
            AND (others.priority > jobs.priority OR (others.priority = jobs.priority AND others.id < jobs.id))
        )
    ))
    ORDER BY priority DESC, id LIMIT 1 FOR UPDATE OF jobs SKIP LOCKED
)
UPDATE procrastinate_jobs AS jobs SET status = 'doing', worker_id = %(worker_id)s FROM candidate
WHERE jobs.id = candidate.id
RETURNING jobs.id, status, task_name, priority, lock, queueing_lock, args, scheduled_at, queue_name, attempts, worker_id
"""
# Jobs of a worker that does not know of them: the database gave them, and its answer did not arrive.
_GIVE_BACK_UNKNOWN: LiteralString = (
    "SELECT procrastinate_retry_job_v2(id, now(), NULL, NULL, NULL) FROM procrastinate_jobs "
    "WHERE status = 'doing' AND worker_id = %(worker_id)s AND NOT id = ANY(%(known)s::bigint[])"
)
_FINISH: LiteralString = (
    f"{OWN_TRY} SELECT procrastinate_finish_job_v1(id, %(status)s::procrastinate_job_status, %(delete_job)s) "  # noqa: S608
    "FROM own_try"
)
_RETRY: LiteralString = (
    f"{OWN_TRY} SELECT procrastinate_retry_job_v2(id, %(retry_at)s::timestamptz, %(priority)s::integer, "  # noqa: S608
    "%(queue)s::varchar, %(lock)s::varchar) FROM own_try"
)


class PatientJobManager(JobManager):
    """A JobManager that waits while the database is away, and whose queue `pausable` can be paused.

    A job of that queue begins only while `takes_jobs` holds, which says whether this process can do one now. A job that
    leaves its lane wakes its worker, for the next of the lane: nothing else would before the worker's next poll.
    """

    def __init__(self, connector: BaseAsyncConnector, *, pausable: str) -> None:
        super().__init__(connector)
        self._pausable = pausable
        self.takes_jobs: Callable[[], Awaitable[bool]] = _always
        self._known = defaultdict[int | None, set[int | None]](set)  # jobs under way, by worker
        self._unheard = set[int]()  # workers whose last fetch may have been given a job unheard
        self._wake: dict[str, NotificationCallback] = {}  # of the worker of each queue
        self._left_lanes = 0  # jobs so far

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """Fetch a job; None also while the queue is paused or the database is away. The worker then asks again."""
        left = None
        job = None
        while job is None and left != self._left_lanes:  # after a fetch the worker forgets what woke it meanwhile
            left = self._left_lanes
            job = await self._fetch(queues, worker_id)
        return job

    async def _fetch(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        try:
            if queues and self._pausable in queues and not await self._may_begin():
                return None
            await self._give_back_unknown(worker_id)
            self._unheard.add(worker_id)
            rows = await self.connector.execute_query_all_async(_FETCH, queues=queues, worker_id=worker_id)
            self._unheard.discard(worker_id)
        except ConnectorException as error:
            _log.warning("no job could be fetched: %s", error)
            return None
        if not rows:
            return None
        self._known[worker_id].add(rows[0]["id"])
        return Job.from_row(rows[0])

    async def _give_back_unknown(self, worker_id: int) -> None:
        """Return the job to the queue that a fetch of this worker was given, if its answer did not arrive."""
        if worker_id in self._unheard:
            known = list(self._known[worker_id])
            await self.connector.execute_query_async(_GIVE_BACK_UNKNOWN, worker_id=worker_id, known=known)

    async def _may_begin(self) -> bool:
        return not (await self.connector.execute_query_one_async(PAUSED))["paused"] and await self.takes_jobs()

    async def update_heartbeat(self, worker_id: int) -> None:
        """Send a heartbeat, also of a worker that was forgotten in a long silence; a failure is only logged."""
        try:
            await self.connector.execute_query_async(_HEARTBEAT, worker_id=worker_id)
        except ConnectorException as error:
            _log.warning("the worker could not report: %s", error)

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """Record a job's end; retry until the database accepts it. Without effect if another worker has the job."""
        await _until_heard(
            lambda: self.connector.execute_query_async(
                _FINISH, **_own_try(job), status=status.value, delete_job=delete_job
            )
        )
        await self._left(job)

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """Return a job to the queue; retry until the database accepts it. Without effect if another worker has it."""
        at = retry_at or datetime.now(UTC)
        await _until_heard(
            lambda: self.connector.execute_query_async(
                _RETRY, **_own_try(job), retry_at=at, priority=priority, queue=queue, lock=lock
            )
        )
        await self._left(job)

    async def _left(self, job: Job) -> None:
        self._known[job.worker_id].discard(job.id)
        if job.lock is None or job.id is None:
            return
        self._left_lanes += 1
        if job.queue in self._wake:
            await self._wake[job.queue](channel="", notification={"type": "job_inserted", "job_id": job.id})

    async def unregister_worker(self, worker_id: int) -> None:
        """Remove a worker that ended; a failure is only logged, since a worker stops also without a database."""
        try:
            await self._unregister(worker_id)
        except (ConnectorException, DatabaseUnavailable) as error:
            _log.warning("the end of a worker could not be told: %s", error)

    @limited
    async def _unregister(self, worker_id: int) -> None:
        await super().unregister_worker(worker_id)

    async def listen_for_jobs(
        self, *, on_notification: NotificationCallback, queues: Iterable[str] | None = None
    ) -> None:
        """Listen for new jobs, and reconnect whenever the connection breaks; polling covers the gap."""
        self._wake |= dict.fromkeys(queues or (), on_notification)
        while True:
            try:
                await super().listen_for_jobs(on_notification=on_notification, queues=queues)
            except ConnectorException as error:
                _log.warning("the queue's notifications stopped: %s", error)
            await asyncio.sleep(_PAUSE_S)


async def _always() -> bool:
    return True


def _own_try(job: Job) -> dict[str, int | None]:
    """Make the arguments of OWN_TRY."""
    return {"job_id": job.id, "worker_id": job.worker_id, "attempts": job.attempts}


async def _until_heard(tell: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            return await tell()
        except ConnectorException as error:
            _log.warning("the queue could not be told how a job ended: %s", error)
            await asyncio.sleep(_PAUSE_S)
