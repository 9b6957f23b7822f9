"""One connection of this process that hears of changed videos, and wakes who watches them."""

import asyncio
import logging
from collections import defaultdict

import psycopg

from wan_t2v_gateway.database.progress import CHANNEL

_log = logging.getLogger(__name__)
_PAUSE_S = 1.0


class Listener:
    """Watchers wait on `changed`; a missed notification costs them one second."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def listen(self) -> None:
        """Listen until cancelled, again after each break."""
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=5
                ) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    async for notification in connection.notifies():
                        for event in self._watchers.get(notification.payload, ()):
                            event.set()
            except psycopg.Error as error:
                _log.warning("notifications stopped: %s", error)
            await asyncio.sleep(_PAUSE_S)

    async def changed(self, video_id: str, event: asyncio.Event, limit_s: float) -> None:
        """Wait until the video changed, or the limit passed. `event` is the watcher's own, from `watch`."""
        try:
            await asyncio.wait_for(event.wait(), limit_s)
        except TimeoutError:
            return
        event.clear()

    def watch(self, video_id: str) -> asyncio.Event:
        """An event that is set when the video changes, until `leave`."""
        event = asyncio.Event()
        self._watchers[video_id].add(event)
        return event

    def leave(self, video_id: str, event: asyncio.Event) -> None:
        """The watcher goes."""
        self._watchers[video_id].discard(event)
        if not self._watchers[video_id]:
            del self._watchers[video_id]
