"""The lost-jobs check: it returns jobs of dead workers to the queue. Beside it, expired videos are removed.

Every gateway runs both. Several gateways may check at the same time: a job is given back by a statement that only one
of them wins, and put back under a lock on its record.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import LiteralString

import procrastinate
import psycopg
from procrastinate.exceptions import ProcrastinateException
from procrastinate.jobs import Job

from wan_t2v_gateway.database.call_limit import DatabaseUnavailable, limited
from wan_t2v_gateway.database.creation import lane_name
from wan_t2v_gateway.database.ending import Ending, failure
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.progress import count_crash, give_back
from wan_t2v_gateway.database.usage import forget_old_work
from wan_t2v_gateway.queue.patient_manager import OWN_TRY
from wan_t2v_gateway.queue.tasks import GENERATE
from wan_t2v_gateway.services import Services

_log = logging.getLogger(__name__)
_EXPIRY_LOOKS = 20  # heartbeats between looks for expired videos, a minute: such a look scans all
_MOST_FAILURES = 5  # per look for videos without a job: a database that is away answers none. The look is at random
_LOST_AFTER_S = 30  # age at which an unfinished video without a queue job is put back
_NOW: LiteralString = "SELECT extract(epoch FROM clock_timestamp())::float8 AS now"
_GIVE_BACK: LiteralString = (
    OWN_TRY + "SELECT procrastinate_retry_job_v2(id, now(), NULL, NULL, NULL) AS given FROM own_try"  # noqa: S608
)
# Rows of older gateways, and of jobs that were given back while they were cancelled.
_FORGET_ENDED: LiteralString = (
    "DELETE FROM procrastinate_jobs WHERE id = ANY(ARRAY(SELECT id FROM procrastinate_jobs "
    "WHERE status NOT IN ('todo', 'doing') LIMIT %s FOR UPDATE SKIP LOCKED)) RETURNING id"
)
_HAS_JOB: LiteralString = (
    "SELECT FROM videos JOIN procrastinate_jobs AS jobs ON jobs.id = queue_job AND jobs.status IN ('todo', 'doing') "
    "WHERE videos.id = %s"
)


class AnsweringDatabase:
    """How long the database has answered this gateway's checks without a gap, by the database's own clock.

    After an outage or a pause of the machine every worker looks silent until it has reported again.
    """

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._since: float | None = None
        self._last = 0.0

    def record_failure(self) -> None:
        """Record a failed look: a gap."""
        self._since = None

    def record_answer(self, now: float) -> float:
        """Record an answer at the database's time. Returns the seconds since the last gap."""
        if self._since is None or not 0 <= now - self._last <= self._gap_s:
            self._since = now
        self._last = now
        return now - self._since


async def watch_for_lost_jobs(app: procrastinate.App, services: Services) -> None:
    """Check for lost jobs every few seconds, and less often for what has expired, until cancelled."""
    pause_s, database = services.settings.heartbeat_s, AnsweringDatabase(services.settings.stalled_s / 2)

    expiring = (
        services.remove_excess,
        services.remove_expired,
        lambda: forget_old_work(services.database),
        lambda: forget_ended_jobs(services.database),
    )
    async with asyncio.TaskGroup() as group:  # a loop for each: one that takes long or fails must not stop the others
        stalled = functools.partial(give_back_stalled, app, services, database)
        group.create_task(_repeat(stalled, pause_s, on_failure=database.record_failure))
        group.create_task(_repeat(lambda: put_back_lost(services), pause_s))
        for look in expiring:
            group.create_task(_repeat(look, _EXPIRY_LOOKS * pause_s))


async def forget_ended_jobs(database: Database) -> None:
    """Delete the rows of jobs that have ended from the queue."""
    await database.delete_in_parts(_FORGET_ENDED)


async def _repeat(
    look: Callable[[], Awaitable[object]], pause_s: float, *, on_failure: Callable[[], None] = lambda: None
) -> None:
    while True:
        try:
            await look()
        except (DatabaseUnavailable, ProcrastinateException) as error:
            on_failure()
            _log.warning("a check for lost or expired jobs could not be made: %s", error)
        except Exception:  # one failed check must not end all later ones
            on_failure()
            _log.exception("a check for lost or expired jobs failed")
        await asyncio.sleep(pause_s)


async def give_back_stalled(app: procrastinate.App, services: Services, database: AnsweringDatabase) -> int:
    """Queue the jobs of silent workers again, unless the database was away a moment ago. Returns how many."""
    silent_s = services.settings.stalled_s
    stalled = await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=silent_s)
    clock = await services.database.row(_NOW)  # after the look, which a gap may have delayed
    assert clock is not None
    if database.record_answer(clock["now"]) < silent_s:
        return 0
    given = 0
    for job in stalled:
        if not await _give_back(services.database, job):
            continue  # another gateway was first, or the job has ended
        given += 1
        _log.warning("job %s of a silent worker goes back to the queue", job.id)
        if job.task_name == GENERATE:
            await _count_death(services, str(job.task_kwargs.get("video_id")))
    return given


@limited
async def _give_back(database: Database, job: Job) -> bool:
    """Queue a job again. No worker takes it before its record says so too, since both are one transaction."""
    async with database.transaction() as connection:
        own_try = {"job_id": job.id, "worker_id": job.worker_id, "attempts": job.attempts}
        if not (await connection.execute(_GIVE_BACK, own_try)).rowcount:
            return False
        if job.task_name == GENERATE:
            await give_back(connection, str(job.task_kwargs.get("video_id")), job.worker_id)
        return True


async def _count_death(services: Services, video_id: str) -> None:
    """Count a worker's death during a job, and fail a job with too many deaths, so that it is not retried for ever."""
    crashes = await count_crash(services.database, video_id)
    if crashes >= services.settings.crashes_allowed:
        error = failure("server_error", f"{crashes} workers or servers ended while they had it")
        await services.end(video_id, Ending("failed", error=error))


async def put_back_lost(services: Services) -> int:
    """Queue unfinished videos without a job in the queue, and end those with a request to cancel.

    Returns how many were queued. A video for which that fails does not hold back the others.
    """
    rows = await services.database.rows(
        "SELECT videos.id, cancel_requested_at IS NOT NULL AS cancelled FROM videos "
        "LEFT JOIN procrastinate_jobs AS jobs ON jobs.id = queue_job AND jobs.status IN ('todo', 'doing') "
        "WHERE videos.status IN ('queued', 'in_progress') AND jobs.id IS NULL "
        "AND created_at < now() - %s * interval '1 second' ORDER BY random() LIMIT 100",
        [_LOST_AFTER_S],
    )
    put_back, failed = 0, 0
    for row in rows:
        try:
            put_back += await _put_back_or_end(services, row["id"], cancelled=row["cancelled"])
        except (DatabaseUnavailable, ProcrastinateException, psycopg.Error) as error:
            _log.warning("video %s has no job in the queue, and could not get one or end: %s", row["id"], error)
            failed += 1
            if failed == _MOST_FAILURES:
                break
    return put_back


async def _put_back_or_end(services: Services, video_id: str, *, cancelled: bool) -> bool:
    """Return whether the video was queued."""
    if cancelled:
        await services.end(video_id, Ending("cancelled"))
    elif await _put_back(services, video_id):
        _log.warning("video %s had no job in the queue; it has one again", video_id)
        return True
    return False


async def _put_back(services: Services, video_id: str) -> bool:
    """Queue a video unless it has a job. Two statements: the second sees what a gateway that had the lock has done."""
    async with services.database.transaction() as connection:
        cursor = await connection.execute(
            "SELECT turn, owner, lane FROM videos WHERE id = %s AND status IN ('queued', 'in_progress') "
            "AND cancel_requested_at IS NULL FOR UPDATE SKIP LOCKED",
            [video_id],
        )
        video = await cursor.fetchone()
        if video is None or (await connection.execute(_HAS_JOB, [video_id])).rowcount:
            return False
        lane = lane_name(video["owner"], video["lane"])
        job = await services.queue.add_video(connection, video_id, video["turn"], lane)
        await connection.execute("UPDATE videos SET queue_job = %s WHERE id = %s", [job, video_id])
        await give_back(connection, video_id, None)
    return True
