"""Uploads of finished files, and the removal of those that no record will name.

A refused upload is not repeated here: pauses.py puts the job back.
"""

import asyncio
import logging

from wan_t2v_gateway.database import videos
from wan_t2v_gateway.database.call_limit import until_heard
from wan_t2v_gateway.database.progress import claim_folder
from wan_t2v_gateway.database.records import Video
from wan_t2v_gateway.generation.reporter import Superseded
from wan_t2v_gateway.services import Services
from wan_t2v_gateway.storage.store import StorageUnavailable

_log = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_STOP_LIMIT_S = 5.0


class Uploads:
    """Uploads of one process.

    A cancelled upload may land after its folder was removed. So none is cancelled: its end is awaited, and its files
    are removed, in a task that holds up no worker.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._last: dict[str, asyncio.Task[None]] = {}  # of each running attempt, by folder
        self._removals: dict[asyncio.Task[None], str] = {}  # their folders

    async def put(self, video: Video, files: dict[str, bytes]) -> None:
        """Store the files of this attempt. Raises Superseded, StorageUnavailable."""
        folder, database = folder_of(video), self._services.database
        if not await until_heard(lambda: claim_folder(database, video, folder), f"the end of {video.id}"):
            raise Superseded(f"attempt {video.attempt} of {video.id} has ended; its files are not stored")
        for variant, data in files.items():
            self._last[folder] = asyncio.create_task(self._services.store.put(folder, variant, data))
            await asyncio.shield(self._last[folder])

    def forget(self, video: Video) -> None:
        """Forget an attempt that has ended."""
        self._last.pop(folder_of(video), None)

    def discard(self, video: Video) -> None:
        """Remove the files of this attempt once its upload has ended, unless the attempt completed the job."""
        upload = self._last.get(folder_of(video))
        if upload is not None:
            removal = asyncio.create_task(self._discard(video, upload))
            self._removals[removal] = folder_of(video)
            removal.add_done_callback(self._removals.pop)

    async def close(self) -> None:
        """Wait for the removals under way, for some seconds."""
        if not self._removals:
            return
        folders = dict(self._removals)
        _, late = await asyncio.wait(folders, timeout=_STOP_LIMIT_S)
        for removal in late:
            _log.warning(
                "the gateway stops before the files in %s were removed: if their video was deleted, "
                "no record names them, and they must be deleted from the store by hand",
                folders[removal],
            )
            removal.cancel()

    async def _discard(self, video: Video, upload: asyncio.Task[None]) -> None:
        await asyncio.wait({upload})
        folder, database = folder_of(video), self._services.database
        recorded = await until_heard(lambda: videos.find(database, video.id, None), f"the removal of {video.id}")
        if recorded is None:
            await self._remove_unnamed(folder)
        elif recorded.folder != folder:
            await self.remove({folder})

    async def remove(self, folders: set[str]) -> None:
        """Remove the files of attempts whose folders a record names."""
        for folder in folders:
            try:
                await self._services.store.remove(folder)
            except StorageUnavailable as error:
                _log.warning("files in %s stay until their video's record goes: %s", folder, error)

    async def _remove_unnamed(self, folder: str) -> None:
        """Remove files that no record names any more, which nothing else would: try until the store has done it."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await self._services.store.remove(folder)
            except StorageUnavailable as error:
                _log.warning("files in %s, which no record names, stay for now: %s", folder, error)
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, 2.0 * pause_s)


def folder_of(video: Video) -> str:
    """Name the folder of this attempt alone, so that a late one changes no recorded file."""
    return f"{video.id}/{video.attempt}"
