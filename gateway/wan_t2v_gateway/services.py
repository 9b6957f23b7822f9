"""The services of one gateway process, made once at its start."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import LiteralString

from psycopg.rows import DictRow

from wan_t2v_gateway.database import ending, videos
from wan_t2v_gateway.database.ending import Ending
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.records import Video
from wan_t2v_gateway.metrics import Measurements
from wan_t2v_gateway.name_lookups import NameLookups
from wan_t2v_gateway.queue.tasks import Queue
from wan_t2v_gateway.settings import Settings
from wan_t2v_gateway.storage.store import StorageUnavailable, Store
from wan_t2v_gateway.tracing import Tracer

_log = logging.getLogger(__name__)
_MOST_FAILURES = 5  # per look: a store that is away answers slowly
_LOOK_ROWS = 100
# Both at random: the same few that cannot be deleted must not be all of every look.
EXCESS: LiteralString = (
    "SELECT id, folders FROM videos WHERE id IN ("
    "SELECT id FROM (SELECT id, sum(bytes) OVER (ORDER BY completed_at DESC, id) AS kept FROM videos "
    "WHERE status = 'completed') AS completed WHERE kept > %s) ORDER BY random() LIMIT %s"
)
EXPIRED: LiteralString = (
    "SELECT id, folders FROM videos WHERE id IN (SELECT id FROM videos WHERE expires_at < now() "
    "UNION SELECT id FROM videos WHERE expires_at IS NULL "  # ended by an older gateway
    "AND completed_at < now() - %s * interval '1 second') ORDER BY random() LIMIT %s"
)


@dataclass(frozen=True)
class Services:
    """Database, queue, store, settings, measurements, tracer and name look-ups of this process."""

    settings: Settings
    database: Database
    queue: Queue
    store: Store
    measurements: Measurements = field(default_factory=Measurements)
    tracer: Tracer = field(default_factory=Tracer)
    names: NameLookups = field(default_factory=NameLookups)

    async def end(self, video_id: str, end: Ending, *, attempt: int | None = None) -> Video | None:
        """Record the end of a job. Returns None if it had ended before, or if another attempt has begun."""
        end = replace(end, keep_s=self.settings.keep_s)
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
        await self._remove(video.id, video.folders)

    async def remove_excess(self) -> int:
        """Delete the videos that exceed the storage limit after newer ones. Returns how many."""
        return await self._remove_all(EXCESS, self.settings.keep_bytes)

    async def remove_expired(self) -> int:
        """Delete the jobs that have expired. Returns how many."""
        return await self._remove_all(EXPIRED, self.settings.keep_s)

    async def _remove_all(self, query: LiteralString, limit: float) -> int:
        """Delete the jobs that a query finds; look again until a look was not full, or removed nothing.

        A job whose files cannot be deleted stays; the others are deleted all the same.
        """
        total = 0
        while True:
            rows = await self.database.rows(query, [limit, _LOOK_ROWS])
            removed = await self._remove_found(rows)
            total += removed
            if not removed or len(rows) < _LOOK_ROWS:
                return total

    async def _remove_found(self, rows: Iterable[DictRow]) -> int:
        removed, failed = 0, 0
        for row in rows:
            try:
                await self._remove(row["id"], row["folders"])
            except StorageUnavailable as error:
                _log.warning("%s has expired and stays: %s", row["id"], error)
                failed += 1
                if failed == _MOST_FAILURES:
                    break
            else:
                removed += 1
        return removed

    async def _remove(self, video_id: str, folders: Iterable[str]) -> None:
        """Delete files and record. Until the record is gone an attempt may store files, so those are deleted last."""
        known = {*folders, video_id}  # files of older gateways are in the id's folder
        for folder in known:
            await self.store.remove(folder)
        for folder in set(await videos.remove(self.database, video_id)) - known:
            await self.store.remove(folder)
