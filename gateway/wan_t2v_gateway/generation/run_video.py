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
from wan_t2v_gateway.database.call_limit import DatabaseUnavailable, until_heard
from wan_t2v_gateway.database.ending import Ending, failure
from wan_t2v_gateway.database.progress import begin, count_crash, put_back
from wan_t2v_gateway.database.records import Video
from wan_t2v_gateway.generation.failures import failure_of, is_dead_process, is_lost
from wan_t2v_gateway.generation.marking import CertificateExpired, Marker
from wan_t2v_gateway.generation.pauses import Pauses, Refused
from wan_t2v_gateway.generation.process_deaths import ProcessDeaths
from wan_t2v_gateway.generation.readiness import is_ready
from wan_t2v_gateway.generation.reporter import Reporter, Superseded
from wan_t2v_gateway.generation.uploads import Uploads, folder_of
from wan_t2v_gateway.services import Services
from wan_t2v_gateway.storage.pictures import thumbnail_and_sheet
from wan_t2v_gateway.storage.store import StorageUnavailable
from wan_t2v_gateway.tracing import Span

_log = logging.getLogger(__name__)
_OURS = "the gateway failed; its log has the reason"


class VideoRunner:
    """The task `generate` of one process."""

    def __init__(
        self, services: Services, client: AsyncTextToVideo, *, connection: Connection, marker: Marker | None = None
    ) -> None:
        self._services, self._client, self._marker, self._connection = services, client, marker, connection
        self._pauses, self._deaths, self._uploads = Pauses(services.settings), ProcessDeaths(), Uploads(services)

    async def __call__(self, context: JobContext, video_id: str) -> None:
        """Run the job to its end. Raises Refused or DatabaseUnavailable if the queue must retry it."""
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
        except Refused as error:
            with self._pauses.after_return(error):
                await self._put_back(video, error.outage_s)
            raise
        except DatabaseUnavailable:
            await self._put_back(video)
            raise
        except Superseded as error:
            _log.warning("%s", error)
        except Exception:  # else the lost-jobs check would queue it again and again
            _log.exception("%s failed", video.id)
            await self._end(video, Ending("failed", error=failure("server_error", _OURS)))
        finally:
            self._uploads.forget(video)

    async def takes_jobs(self) -> bool:
        """Whether the next job may begin: no pause after a refusal runs, files can be signed, the server is ready."""
        if not self._pauses.are_over() or not await self._can_sign():
            return False
        return await is_ready(self._connection) and self._pauses.are_over()

    async def _can_sign(self) -> bool:
        return self._marker is None or await asyncio.to_thread(self._marker.can_sign)

    async def close(self) -> None:
        """Finish what the jobs left behind, once no job runs any more."""
        await self._uploads.close()

    async def _attempt(self, video: Video) -> None:
        reporter, began = Reporter(self._services.database, video), time.monotonic()
        try:
            with self._services.tracer.span("running", video.trace, video=video.id, attempt=video.attempt) as span:
                async with reporter, self._traced_client(span) as client:
                    generation = await reporter.unless_superseded(self._generation(video, reporter, client))
            received = time.monotonic()
            with self._services.tracer.span("stored", video.trace, video=video.id):
                await self._store(video, generation)
            self._pauses.end()
            self._services.measurements.finishing.observe(time.monotonic() - received)
        except (Unavailable, StorageUnavailable, CertificateExpired) as error:
            worked = reporter.progressed and isinstance(error, Unavailable)
            raise self._pauses.try_again(video, error, lost_s=0.0 if worked else time.monotonic() - began) from None

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
        began = time.monotonic()
        try:
            async with aclosing(client.stream(on_heartbeat=reporter.record_stage, **fields)) as messages:
                async for message in messages:
                    if isinstance(message, Generation):
                        return message
                    reporter.record_step(message)
                    self._deaths.record_step(began=began)
        except Unavailable as error:
            if self._is_counted(error, reporter):
                await self._count_crash(video, error)
            raise
        raise ServerFault("the stream ended without a video")

    def _is_counted(self, error: Unavailable, reporter: Reporter) -> bool:
        """Whether this counts as a death of the server that the job may have caused."""
        died_now = is_dead_process(error) and self._deaths.record_death()
        return reporter.progressed or (reporter.admitted and (died_now or is_lost(error)))

    async def _count_crash(self, video: Video, error: Unavailable) -> None:
        crashes = await count_crash(self._services.database, video.id)
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
        await self._uploads.put(video, files)
        end = Ending(
            "completed",
            metadata=metadata,
            bytes=sum(map(len, files.values())),
            sha256=hashlib.sha256(files["video"]).hexdigest(),
            folder=folder_of(video),
        )
        recorded = await self._end(video, end)
        if recorded is None:
            self._uploads.discard(video)
        else:
            await self._uploads.remove({*recorded.folders} - {recorded.folder})

    async def _put_back(self, video: Video, outage_s: float = 0.0) -> None:
        with contextlib.suppress(DatabaseUnavailable):  # then it is shown as in progress until the next attempt begins
            await put_back(self._services.database, video, outage_s=outage_s)

    async def _cancelled(self, video: Video) -> None:
        """Record a cancellation, even if the database is away for a while. The stream is closed by then."""
        with contextlib.suppress(DatabaseUnavailable):
            age_s = await videos.cancel_age_s(self._services.database, video.id)
            self._services.measurements.cancel.observe(age_s or 0.0)
        try:
            await self._end(video, Ending("cancelled"))
        finally:  # also if the gateway stops while the database is away
            self._uploads.discard(video)

    async def _end(self, video: Video, ending: Ending) -> Video | None:
        """Record the end; wait for the database if it is away, so that finished work is not lost."""
        end = self._services.end
        return await until_heard(lambda: end(video.id, ending, attempt=video.attempt), f"the end of {video.id}")
