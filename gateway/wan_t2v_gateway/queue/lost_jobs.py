"""The keeper: it returns jobs of dead workers to the queue, and removes expired videos.

Every gateway runs one. Keepers may work at the same time: each step is one statement, which only one of them wins.
"""

import asyncio
import itertools
import logging
from datetime import UTC, datetime

import procrastinate
from procrastinate.exceptions import ProcrastinateException

from wan_t2v_gateway.database.creation import lane_name
from wan_t2v_gateway.database.ending import Ending
from wan_t2v_gateway.database.limit import DatabaseUnavailable
from wan_t2v_gateway.database.usage import forget_old_work
from wan_t2v_gateway.queue.tasks import GENERATE
from wan_t2v_gateway.services import Services

_log = logging.getLogger(__name__)
_LOOKS_BETWEEN_EXPIRIES = 20  # a minute
_LOST_AFTER_S = 30  # age at which an unfinished video without a queue job is put back


async def watch_for_lost_jobs(app: procrastinate.App, services: Services) -> None:
    """Check for lost jobs every few seconds, until cancelled; for expired videos less often, as that scans all."""
    for look in itertools.count():
        try:
            await give_back_stalled(app, services)
            await put_back_lost(services)
            if look % _LOOKS_BETWEEN_EXPIRIES == 0:
                await services.remove_expired()
                await forget_old_work(services.database)
        except (DatabaseUnavailable, ProcrastinateException) as error:
            _log.warning("the keeper could not look: %s", error)
        except Exception:  # one failed check must not end all later ones
            _log.exception("the keeper failed")
        await asyncio.sleep(services.settings.heartbeat_s)


async def give_back_stalled(app: procrastinate.App, services: Services) -> int:
    """Queue the jobs of silent workers again. Returns how many."""
    stalled = await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=services.settings.stalled_s)
    given = 0
    for job in stalled:
        assert job.id is not None
        try:
            await app.job_manager.retry_job_by_id_async(job_id=job.id, retry_at=datetime.now(UTC))
        except ProcrastinateException:
            continue  # another keeper was first, or the job has ended
        given += 1
        _log.warning("job %s of a silent worker goes back to the queue", job.id)
        if job.task_name == GENERATE:
            await _count_death(services, str(job.task_kwargs.get("video_id")))
    return given


async def _count_death(services: Services, video_id: str) -> None:
    """Count a worker's death during a job, and fail a job with too many deaths, so that it is not retried for ever."""
    row = await services.database.row(
        "UPDATE videos SET crashes = crashes + 1 WHERE id = %s RETURNING crashes", [video_id]
    )
    allowed = services.settings.crashes_allowed
    if row and row["crashes"] >= allowed:
        error = {
            "code": "server_error",
            "message": f"{row['crashes']} workers or servers ended while they had it",
        }
        await services.end(video_id, Ending("failed", error=error))


async def put_back_lost(services: Services) -> int:
    """Queue unfinished videos that have no job in the queue; end those with a request to cancel. Returns how many."""
    rows = await services.database.rows(
        "SELECT videos.id, turn, owner, lane, cancel_requested_at IS NOT NULL AS cancelled FROM videos "
        "LEFT JOIN procrastinate_jobs AS jobs ON jobs.id = queue_job AND jobs.status IN ('todo', 'doing') "
        "WHERE videos.status IN ('queued', 'in_progress') AND jobs.id IS NULL "
        "AND created_at < now() - %s * interval '1 second' LIMIT 100",
        [_LOST_AFTER_S],
    )
    for row in rows:
        if row["cancelled"]:
            await services.end(row["id"], Ending("cancelled"))
            continue
        async with services.database.transaction() as connection:
            lane = lane_name(row["owner"], row["lane"])
            job = await services.queue.add_video(connection, row["id"], row["turn"], lane)
            await connection.execute("UPDATE videos SET queue_job = %s WHERE id = %s", [job, row["id"]])
        _log.warning("video %s had no job in the queue; it has one again", row["id"])
    return len(rows)
