"""This process's workers, restarted whenever they end: procrastinate's worker ends when its database goes away."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import procrastinate

from wan_t2v_gateway.queue.patient_manager import PatientJobManager
from wan_t2v_gateway.queue.tasks import VIDEOS, WEBHOOKS
from wan_t2v_gateway.settings import Settings

_log = logging.getLogger(__name__)
_PAUSE_S = 1.0
_FORGET_WORKER_S = 3600.0  # a worker that only hung must still find its own row
_DELIVERIES = 16  # webhooks at a time: four owners' lanes
_STOP_LIMIT_S = 5.0  # for jobs to return to the queue


async def keep_working(app: procrastinate.App, settings: Settings, tasks: Mapping[str, Any]) -> None:
    """Run a worker for videos and one for webhooks until cancelled; their jobs then return to the queue."""
    if isinstance(app.job_manager, PatientJobManager):
        app.job_manager.takes_jobs = tasks["run_video"].takes_jobs
    kinds = [(VIDEOS, settings.workers), (WEBHOOKS, _DELIVERIES)]
    async with asyncio.TaskGroup() as group:
        for queue, concurrency in kinds:
            if concurrency:
                group.create_task(_keep_one(app, settings, tasks, queue=queue, concurrency=concurrency))


async def _keep_one(
    app: procrastinate.App, settings: Settings, tasks: Mapping[str, Any], *, queue: str, concurrency: int
) -> None:
    while True:
        worker = asyncio.create_task(
            app.run_worker_async(
                queues=[queue],
                name=queue,
                concurrency=concurrency,
                additional_context=dict(tasks),
                fetch_job_polling_interval=settings.poll_s,
                abort_job_polling_interval=1.0,
                shutdown_graceful_timeout=0.0,
                install_signal_handlers=False,
                update_heartbeat_interval=settings.heartbeat_s,
                stalled_worker_timeout=_FORGET_WORKER_S,
                delete_jobs="always",
            )
        )
        try:
            await asyncio.wait({worker})
        except asyncio.CancelledError:
            await _stop(worker, queue)
            raise
        _log.warning("the worker for %s ended (%s); another one starts", queue, _reason(worker))
        await asyncio.sleep(_PAUSE_S)


async def _stop(worker: asyncio.Task[None], queue: str) -> None:
    """Cancel a worker and wait for its end, but not for a database that is away.

    The lost-jobs check then gives its jobs back.
    """
    worker.cancel()
    done, _ = await asyncio.wait({worker}, timeout=_STOP_LIMIT_S)
    if not done:
        _log.warning("the worker for %s did not return its jobs within %g s", queue, _STOP_LIMIT_S)
    elif not worker.cancelled() and worker.exception():
        _log.warning("the worker for %s ended with an error: %s", queue, worker.exception())


def _reason(worker: asyncio.Task[None]) -> str:
    return "cancelled" if worker.cancelled() else str(worker.exception())
