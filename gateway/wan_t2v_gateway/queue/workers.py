"""This process's workers, restarted whenever they end: procrastinate's worker ends when its database goes away."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import procrastinate

from wan_t2v_gateway.queue.tasks import VIDEOS, WEBHOOKS
from wan_t2v_gateway.settings import Settings

_log = logging.getLogger(__name__)
_PAUSE_S = 1.0
_FORGET_WORKER_S = 3600.0  # a worker that only hung must still find its own row
_DELIVERIES = 8  # webhooks at a time


async def keep_working(app: procrastinate.App, settings: Settings, tasks: Mapping[str, Any]) -> None:
    """Run a worker for videos and one for webhooks until cancelled; their jobs then return to the queue."""
    kinds = [(VIDEOS, settings.workers), (WEBHOOKS, _DELIVERIES)]
    async with asyncio.TaskGroup() as group:
        for queue, concurrency in kinds:
            if concurrency:
                group.create_task(_keep_one(app, settings, tasks, queue=queue, concurrency=concurrency))


async def _keep_one(
    app: procrastinate.App, settings: Settings, tasks: Mapping[str, Any], *, queue: str, concurrency: int
) -> None:
    while True:
        try:
            await app.run_worker_async(
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
        except Exception as error:  # whatever the reason, a new worker may succeed
            _log.warning("the worker for %s ended (%s); another one starts", queue, error)
        with contextlib.suppress(TimeoutError):
            await asyncio.sleep(_PAUSE_S)
