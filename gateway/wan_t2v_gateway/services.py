"""What one gateway process works with, made once at its start."""

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
    """Database, queue, store and settings, and what this process measured."""

    settings: Settings
    database: Database
    queue: Queue
    store: Store
    measurements: Measurements = field(default_factory=Measurements)
    tracer: Tracer = field(default_factory=Tracer)

    async def end(self, video_id: str, end: Ending, *, attempt: int | None = None) -> Video | None:
        """Record the end of a job."""
        return await ending.end(self.database, video_id, end, queue_webhook=self.queue.add_webhook, attempt=attempt)

    async def cancel(self, video: Video) -> Video:
        """Stop a job: at once if it waits, within a pass of the server if it runs. Returns it as it is then."""
        await videos.ask_to_cancel(self.database, video.id)
        if video.queue_job is not None:
            await self.queue.cancel(video.queue_job)
        if video.status == "queued":
            await self.end(video.id, Ending("cancelled"))
        current = await videos.find(self.database, video.id, None)
        return current or video

    async def remove(self, video: Video) -> None:
        """Stop the job, delete its files, then its record."""
        if not video.is_finished:
            await self.cancel(video)
        await self.store.remove(video.id)
        await videos.remove(self.database, video.id)

    async def remove_expired(self) -> int:
        """Delete what is too old, and the oldest of too much."""
        rows = await self.database.rows(
            "SELECT id FROM (SELECT id, expires_at, sum(bytes) OVER (ORDER BY completed_at DESC, id) AS kept "
            "FROM videos WHERE status = 'completed') AS finished WHERE expires_at < now() OR kept > %s LIMIT 100",
            [self.settings.keep_bytes],
        )
        for row in rows:
            await self.store.remove(row["id"])
            await videos.remove(self.database, row["id"])
        return len(rows)
