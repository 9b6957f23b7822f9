"""Run one job: generate through the server's streaming endpoint, store the files, record the end.

Cancelling the task stops the work: it closes the gRPC stream, and the server stops within one pass.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from procrastinate.job_context import AbortReason, JobContext
from wan_t2v_client import (
    AsyncTextToVideo,
    Connection,
    DeadlineExceeded,
    Generation,
    RequestRefused,
    ServerFault,
    Unavailable,
)

from wan_t2v_gateway.database import videos
from wan_t2v_gateway.database.ending import Ending
from wan_t2v_gateway.database.limit import DatabaseUnavailable
from wan_t2v_gateway.database.progress import begin, claim_folder, count_crash, put_back
from wan_t2v_gateway.database.records import Video
from wan_t2v_gateway.generation.failures import failure, failure_of, is_death
from wan_t2v_gateway.generation.marking import Marker
from wan_t2v_gateway.generation.readiness import is_ready
from wan_t2v_gateway.generation.reporter import Reporter, Superseded
from wan_t2v_gateway.queue.tasks import TryAgain
from wan_t2v_gateway.services import Services
from wan_t2v_gateway.storage.pictures import thumbnail_and_sheet
from wan_t2v_gateway.storage.store import StorageUnavailable
from wan_t2v_gateway.tracing import Span

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 60.0
_HELD_ATTEMPTS = 3  # of a job after which the worker takes no other during the job's whole pause
_SHORT_HOLD_S = 3.0  # after later attempts
_OURS = "the gateway failed; its log has the reason"
_BEING_WORKED_ON = "is being worked on"  # text of the server's ALREADY_EXISTS: an earlier try is still running there
_UNTIL_QUEUED_S = 0.2  # so that the refused job is in the queue again before the next fetch
_T = TypeVar("_T")


class VideoRunner:
    """The task `generate` of one process."""

    def __init__(
        self, services: Services, client: AsyncTextToVideo, *, connection: Connection, marker: Marker | None = None
    ) -> None:
        self._services, self._client, self._marker, self._connection = services, client, marker, connection
        self._next_job_at = 0.0  # by the monotonic clock
        self._puts: dict[str, asyncio.Task[None]] = {}  # the last one of each running attempt, by folder

    async def __call__(self, context: JobContext, video_id: str) -> None:
        """Run the job to its end. Raises TryAgain or DatabaseUnavailable if the queue must retry it."""
        video = await begin(self._services.database, video_id)
        if video is None:
            return
        if video.attempt == 1 and video.started_at is not None:
            waited = video.started_at - video.created_at
            self._services.measurements.queued.observe(waited.total_seconds())
            self._services.tracer.ended("queued", video.trace, began=video.created_at, ended=video.started_at)
        try:
            await self._attempt(video)
        except (RequestRefused, ServerFault, DeadlineExceeded) as error:
            await self._end(video, Ending("failed", error=failure_of(error)))
        except asyncio.CancelledError:
            if context.abort_reason() is AbortReason.USER_REQUEST:
                await self._cancelled(video)
            else:  # this process is stopping
                await self._put_back(video)
            raise
        except TryAgain as error:
            await self._put_back(video, error.outage_s)
            raise
        except DatabaseUnavailable:
            await self._put_back(video)
            raise
        except Superseded as error:
            _log.warning("%s", error)
        except Exception:  # else the keeper would queue it again and again
            _log.exception("%s failed", video.id)
            await self._end(video, Ending("failed", error=failure("server_error", _OURS)))
        finally:
            self._puts.pop(_folder(video), None)

    async def takes_jobs(self) -> bool:
        """Whether the next job may begin: no pause after a refusal is running, and the server is ready."""
        return time.monotonic() >= self._next_job_at and await is_ready(self._connection)

    async def _attempt(self, video: Video) -> None:
        reporter, began = Reporter(self._services.database, video), time.monotonic()
        try:
            with self._services.tracer.span("running", video.trace, video=video.id, attempt=video.attempt) as span:
                async with reporter, self._traced_client(span) as client:
                    generation = await reporter.unless_superseded(self._generation(video, reporter, client))
            received, self._next_job_at = time.monotonic(), 0.0  # the server has room again
            with self._services.tracer.span("stored", video.trace, video=video.id):
                await self._store(video, generation)
            self._services.measurements.finishing.observe(time.monotonic() - received)
        except (Unavailable, StorageUnavailable) as error:
            worked = reporter.progressed and isinstance(error, Unavailable)
            raise self._try_again(video, error, lost_s=0.0 if worked else time.monotonic() - began) from None

    @contextlib.asynccontextmanager
    async def _traced_client(self, span: Span) -> AsyncIterator[AsyncTextToVideo]:
        """Yield the shared client; for a traced job one of its own, since headers are set per connection."""
        if not span.context:
            yield self._client
            return
        headers = {**self._connection.headers, **span.context}
        async with AsyncTextToVideo(replace(self._connection, headers=headers)) as client:
            yield client

    async def _generation(self, video: Video, reporter: Reporter, client: AsyncTextToVideo) -> Generation:
        fields: dict[str, Any] = {"preview_every": self._services.settings.preview_every, **video.fields}
        if self._services.settings.resumes:
            fields["idempotency_key"] = video.id
        try:
            async with aclosing(client.stream(on_heartbeat=reporter.stage, **fields)) as news:
                async for told in news:
                    if isinstance(told, Generation):
                        return told
                    reporter.step(told)
        except Unavailable as error:
            if reporter.progressed or (reporter.admitted and is_death(error)):
                await self._count_crash(video, error)
            raise
        raise ServerFault("the stream ended without its last word")

    async def _count_crash(self, video: Video, error: Unavailable) -> None:
        crashes = await count_crash(self._services.database, video)
        if crashes >= self._services.settings.crashes_allowed:
            raise ServerFault(f"the server ended {crashes} times while it worked on this video; last: {error}")

    async def _store(self, video: Video, generation: Generation) -> None:
        if generation.video is None:
            raise ServerFault("the server's answer holds no video")
        files, metadata = {"video": generation.video}, dict(generation.metadata)
        if self._marker is not None:
            title = f"{video.id}.mp4"
            files["video"] = await asyncio.to_thread(
                self._marker.sign, generation.video, title=title, model=video.model
            )
            unsigned = hashlib.sha256(generation.video).hexdigest()
            metadata["marked"] = {"certificate": self._marker.kind, "unsigned_sha256": unsigned}
        try:
            thumbnail, sheet = await asyncio.to_thread(thumbnail_and_sheet, generation.video)
            files |= {"thumbnail": thumbnail, "spritesheet": sheet}
        except Exception as error:  # a video without pictures is still a video
            _log.warning("no pictures of %s: %s", video.id, error)
        folder = _folder(video)
        await self._put(video, folder, files)
        end = Ending(
            "completed",
            metadata=metadata,
            bytes=sum(map(len, files.values())),
            sha256=hashlib.sha256(files["video"]).hexdigest(),
            folder=folder,
        )
        recorded = await self._end(video, end)
        await self._remove({folder} if recorded is None else {*recorded.folders} - {folder})

    async def _put(self, video: Video, folder: str, files: dict[str, bytes]) -> None:
        """Store the files. Raises Superseded, StorageUnavailable."""
        database = self._services.database
        if not await _until_heard(lambda: claim_folder(database, video, folder), f"the end of {video.id}"):
            raise Superseded(f"attempt {video.attempt} of {video.id} has ended; its files are not stored")
        for variant, data in files.items():
            self._puts[folder] = asyncio.create_task(self._services.store.put(folder, variant, data))
            await asyncio.shield(self._puts[folder])  # a cancelled one may land after its folder was removed

    async def _remove(self, folders: set[str]) -> None:
        """Remove the files of attempts that are not the recorded one."""
        for folder in folders:
            try:
                await self._services.store.remove(folder)
            except StorageUnavailable as error:  # then they go with the record
                _log.warning("files in %s stay: %s", folder, error)

    def _try_again(self, video: Video, error: Unavailable | StorageUnavailable, *, lost_s: float) -> TryAgain:
        """Make the exception that returns the job to the queue. Raises ServerFault if the job has waited too long."""
        waited_s = video.outage_s + lost_s
        if waited_s > self._services.settings.longest_outage_s:
            raise ServerFault(f"given up after {waited_s:.0f} s and {video.attempt} attempts; last: {error}")
        pause_s = self._pause_s(video, error)
        if _BEING_WORKED_ON not in str(error):
            # A later job would be refused too. But if it is this job's fault, the others must not wait for it for ever:
            # after its pause it goes first again.
            held_s = pause_s if video.attempt <= _HELD_ATTEMPTS else min(pause_s, _SHORT_HOLD_S)
            self._next_job_at = max(self._next_job_at, time.monotonic() + held_s + _UNTIL_QUEUED_S)
        return TryAgain(str(error), pause_s, outage_s=lost_s + pause_s)

    def _pause_s(self, video: Video, error: Unavailable | StorageUnavailable) -> float:
        asked_s = (isinstance(error, Unavailable) and error.retry_after_s) or 0.0
        growing_s = self._services.settings.retry_s * 2.0 ** min(video.attempt - 1, 16)
        own_s = 1.0 if _BEING_WORKED_ON in str(error) else min(_LONGEST_PAUSE_S, growing_s)
        return float(max(asked_s, own_s))

    async def _put_back(self, video: Video, outage_s: float = 0.0) -> None:
        with contextlib.suppress(DatabaseUnavailable):  # then it is shown as in progress until the next attempt begins
            await put_back(self._services.database, video, outage_s=outage_s)

    async def _cancelled(self, video: Video) -> None:
        """Record a cancellation, even if the database is away for a while. The stream is closed by then."""
        with contextlib.suppress(DatabaseUnavailable):
            age_s = await videos.cancel_age_s(self._services.database, video.id)
            self._services.measurements.cancel.observe(age_s or 0.0)
        await self._end(video, Ending("cancelled"))
        if put := self._puts.get(_folder(video)):
            await asyncio.wait({put})
            await self._remove_unrecorded(video)

    async def _remove_unrecorded(self, video: Video) -> None:
        """Remove the files of this attempt unless it completed the job. A removed record has no other way to do it."""
        database = self._services.database
        recorded = await _until_heard(lambda: videos.find(database, video.id, None), f"the removal of {video.id}")
        if recorded is None or recorded.folder != _folder(video):
            await self._remove({_folder(video)})

    async def _end(self, video: Video, ending: Ending) -> Video | None:
        """Record the end; wait for the database if it is away, so that finished work is not lost."""
        end = self._services.end
        return await _until_heard(lambda: end(video.id, ending, attempt=video.attempt), f"the end of {video.id}")


def _folder(video: Video) -> str:
    """Name the folder of this attempt alone, so that a late one changes no recorded file."""
    return f"{video.id}/{video.attempt}"


async def _until_heard(call: Callable[[], Awaitable[_T]], what: str) -> _T:
    while True:
        try:
            return await call()
        except DatabaseUnavailable as error:
            _log.warning("%s waits: %s", what, error)
            await asyncio.sleep(1.0)
