"""The services of one gateway process, made once at its start."""

from dataclasses import dataclass, field

from wan_t2v_gateway.database import ending, videos
from wan_t2v_gateway.database.ending import Ending
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.records import Video
from wan_t2v_gateway.metrics import Measurements
from wan_t2v_gateway.queue.tasks import Queue
from wan_t2v_gateway.settings import Settings
from wan_t2v_gateway.storage.store import Store
from wan_t2v_gateway.tracing import Tracer


@dataclass(frozen=True)
class Services:
    """Database, queue, store, settings, measurements and tracer of this process."""

    settings: Settings
    database: Database
    queue: Queue
    store: Store
    measurements: Measurements = field(default_factory=Measurements)
    tracer: Tracer = field(default_factory=Tracer)

    async def end(self, video_id: str, end: Ending, *, attempt: int | None = None) -> Video | None:
        """Record the end of a job. Returns None if it had ended before, or if another attempt has begun."""
        return await ending.end(self.database, video_id, end, queue_webhook=self.queue.add_webhook, attempt=attempt)

    async def cancel(self, video: Video) -> Video:
        """Cancel a job: immediately if it waits, within one pass of the server if it runs. Returns its new state."""
        await videos.ask_to_cancel(self.database, video.id)
        if video.queue_job is not None:
            await self.queue.cancel(video.queue_job)
        if video.status == "queued":
            await self.end(video.id, Ending("cancelled"))
        current = await videos.find(self.database, video.id, None)
        return current or video

    async def remove(self, video: Video) -> None:
        """Cancel the job if it is unfinished, then delete its files and its record."""
        if not video.is_finished:
            await self.cancel(video)
        await self.store.remove(video.id)
        await videos.remove(self.database, video.id)

    async def remove_expired(self) -> int:
        """Delete up to 100 videos that have expired, or exceed the storage limit after newer ones. Returns how many."""
        rows = await self.database.rows(
            "SELECT id FROM (SELECT id, expires_at, sum(bytes) OVER (ORDER BY completed_at DESC, id) AS kept "
            "FROM videos WHERE status = 'completed') AS finished WHERE expires_at < now() OR kept > %s LIMIT 100",
            [self.settings.keep_bytes],
        )
        for row in rows:
            await self.store.remove(row["id"])
            await videos.remove(self.database, row["id"])
        return len(rows)
