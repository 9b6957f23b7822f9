"""Background writes of a running job's progress, so that a slow database never delays the video."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

import psycopg
from wan_t2v_client import Heartbeat, Progress

from wan_t2v_gateway.database.call_limit import DatabaseUnavailable
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.progress import Update, write
from wan_t2v_gateway.database.records import Video

_log = logging.getLogger(__name__)
_MOST_WAITING = 200  # updates; while the database is away, the oldest are dropped
_QUEUE = "queue"  # the server's stage of a request that waits for its turn
_T = TypeVar("_T")


class Superseded(Exception):
    """Another attempt of the job has begun, or the job has ended: this attempt has nothing more to do."""


class Reporter:
    """Progress writer, an asynchronous context.

    `superseded` is set once another attempt has begun or the job has ended; `admitted` once the server reported a stage
    after its queue; `progressed` once it reported a step.
    """

    def __init__(self, database: Database, video: Video) -> None:
        self._database, self._video = database, video
        self._waiting: list[Update] = []
        self._news = asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self.superseded = asyncio.Event()
        self.admitted = self.progressed = False

    async def __aenter__(self) -> "Reporter":
        self._task = asyncio.create_task(self._send())
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Wait briefly for the pending updates; the rest is dropped, since the job's end makes it obsolete."""
        assert self._task is not None
        self._closed = True
        self._news.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._task, timeout=0.2 if exception[0] else 2.0)

    async def unless_superseded(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do the work of this attempt; once it is superseded, cancel the work and raise Superseded."""
        task, superseded = asyncio.create_task(work), asyncio.create_task(self.superseded.wait())
        try:
            await asyncio.wait({task, superseded}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Superseded(f"attempt {self._video.attempt} of {self._video.id} has ended")
            return task.result()
        finally:
            superseded.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def record_step(self, progress: Progress) -> None:
        """Queue the update of a finished step."""
        self.admitted = self.progressed = True
        share = progress.step / progress.num_inference_steps
        data = {
            "stage": "denoise",
            "step": progress.step,
            "num_inference_steps": progress.num_inference_steps,
            "expert": progress.expert,
            "step_s": progress.step_s,
            "left_s": progress.left_s,
            "percent": min(99, int(100 * share)),
            "preview": progress.preview is not None,
        }
        self._add(Update("step", data, progress.preview, worked_s=progress.step_s))

    def record_stage(self, heartbeat: Heartbeat) -> None:
        """Queue the update of a heartbeat, which has the request's stage."""
        waits = heartbeat.stage == _QUEUE
        self.admitted = self.admitted or not waits
        data = {"stage": heartbeat.stage, "stage_s": heartbeat.stage_s}
        data = data if heartbeat.ahead is None else {**data, "server_ahead": heartbeat.ahead}
        self._add(Update("stage", data, waits=waits, worked_s=heartbeat.stage_s))

    def _add(self, update: Update) -> None:
        self._waiting.append(update)
        del self._waiting[:-_MOST_WAITING]
        self._news.set()

    async def _send(self) -> None:
        while self._waiting or not self._closed:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                update = self._waiting[0]
                try:
                    if not await write(self._database, self._video, update):
                        self.superseded.set()
                        return
                except DatabaseUnavailable as error:
                    _log.warning("progress of %s waits: %s", self._video.id, error)
                    await asyncio.sleep(1.0)
                    continue
                except psycopg.Error as error:  # the video goes on without this update
                    _log.error("progress of %s is not recorded: %s", self._video.id, error)
                if self._waiting and self._waiting[0] is update:
                    del self._waiting[0]
