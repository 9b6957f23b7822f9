"""Run one job: generate through the server's streaming endpoint, store the files, record the end.

Cancelling the task stops the work: it closes the gRPC stream, and the server stops within one pass.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

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
from wan_t2v_gateway.database.progress import begin, count_crash, put_back
from wan_t2v_gateway.database.records import Video
from wan_t2v_gateway.generation.failures import failure, failure_of
from wan_t2v_gateway.generation.marking import Marker
from wan_t2v_gateway.generation.reporter import Reporter
from wan_t2v_gateway.queue.tasks import TryAgain
from wan_t2v_gateway.services import Services
from wan_t2v_gateway.storage.pictures import thumbnail_and_sheet
from wan_t2v_gateway.storage.store import StorageUnavailable
from wan_t2v_gateway.tracing import Span

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 60.0
_OURS = "the gateway failed; its log has the reason"
_BEING_WORKED_ON = "is being worked on"  # text of the server's ALREADY_EXISTS: an earlier try is still running there


class VideoRunner:
    """The task `generate` of one process."""

    def __init__(
        self, services: Services, client: AsyncTextToVideo, *, connection: Connection, marker: Marker | None = None
    ) -> None:
        self._services, self._client, self._marker, self._connection = services, client, marker, connection

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
        except (TryAgain, DatabaseUnavailable):
            await self._put_back(video)
            raise
        except Exception:  # else the keeper would queue it again and again
            _log.exception("%s failed", video.id)
            await self._end(video, Ending("failed", error=failure("server_error", _OURS)))

    async def _attempt(self, video: Video) -> None:
        reporter = Reporter(self._services.database, video)
        try:
            with self._services.tracer.span("running", video.trace, video=video.id, attempt=video.attempt) as span:
                async with reporter, self._traced_client(span) as client:
                    generation = await self._generation(video, reporter, client)
            received = time.monotonic()
            with self._services.tracer.span("stored", video.trace, video=video.id):
                await self._store(video, generation)
            self._services.measurements.finishing.observe(time.monotonic() - received)
        except Unavailable as error:
            self._check_patience(video, str(error))
            pause_s = 1.0 if _BEING_WORKED_ON in str(error) else self._pause_s(video)
            raise TryAgain(str(error), max(pause_s, error.retry_after_s or 0.0)) from None
        except StorageUnavailable as error:
            self._check_patience(video, str(error))
            raise TryAgain(str(error), self._pause_s(video)) from None

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
        progressed = False
        try:
            async with aclosing(client.stream(on_heartbeat=reporter.stage, **fields)) as news:
                async for told in news:
                    if isinstance(told, Generation):
                        return told
                    progressed = True
                    reporter.step(told)
        except Unavailable as error:
            if progressed:
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
            files["video"] = await self._marked(self._marker, video, generation.video)
            unsigned = hashlib.sha256(generation.video).hexdigest()
            metadata["marked"] = {"certificate": self._marker.kind, "unsigned_sha256": unsigned}
        try:
            thumbnail, sheet = await asyncio.to_thread(thumbnail_and_sheet, generation.video)
            files |= {"thumbnail": thumbnail, "spritesheet": sheet}
        except Exception as error:  # a video without pictures is still a video
            _log.warning("no pictures of %s: %s", video.id, error)
        for variant, data in files.items():
            await self._services.store.put(video.id, variant, data)
        await self._end(
            video,
            Ending(
                "completed",
                metadata=metadata,
                bytes=sum(map(len, files.values())),
                sha256=hashlib.sha256(files["video"]).hexdigest(),
                keep_s=self._services.settings.keep_s,
            ),
        )

    async def _marked(self, marker: Marker, video: Video, made: bytes) -> bytes:
        """Return the signed file; that of an earlier attempt if it is stored, since each signing gives other bytes."""
        earlier = await self._services.store.whole(video.id, "video") if video.attempt > 1 else None
        if earlier is not None and await asyncio.to_thread(marker.is_signed, earlier):
            return earlier
        return await asyncio.to_thread(marker.sign, made, title=f"{video.id}.mp4", model=video.model)

    def _check_patience(self, video: Video, reason: str) -> None:
        assert video.started_at is not None
        waited_s = time.time() - video.started_at.timestamp()
        if waited_s > self._services.settings.longest_outage_s:
            raise ServerFault(f"given up after {waited_s:.0f} s and {video.attempt} attempts; last: {reason}")

    def _pause_s(self, video: Video) -> float:
        return float(min(_LONGEST_PAUSE_S, self._services.settings.retry_s * 2.0 ** min(video.attempt - 1, 16)))

    async def _put_back(self, video: Video) -> None:
        with contextlib.suppress(DatabaseUnavailable):  # then it is shown as in progress until the next attempt begins
            await put_back(self._services.database, video)

    async def _cancelled(self, video: Video) -> None:
        """Record a cancellation, even if the database is away for a while. The stream is closed by then."""
        with contextlib.suppress(DatabaseUnavailable):
            age_s = await videos.cancel_age_s(self._services.database, video.id)
            self._services.measurements.cancel.observe(age_s or 0.0)
        await self._end(video, Ending("cancelled"))

    async def _end(self, video: Video, ending: Ending) -> None:
        """Record the end; wait for the database if it is away, so that finished work is not lost."""
        while True:
            try:
                await self._services.end(video.id, ending, attempt=video.attempt)
                return
            except DatabaseUnavailable as error:
                _log.warning("the end of %s waits: %s", video.id, error)
                await asyncio.sleep(1.0)
