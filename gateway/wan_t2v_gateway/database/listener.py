"""One connection per process that receives notifications of changed videos, and wakes their watchers."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

import psycopg

from wan_t2v_gateway.database.pool import CONNECT
from wan_t2v_gateway.database.progress import CHANNEL

_log = logging.getLogger(__name__)
_PAUSE_S = 1.0
_T = TypeVar("_T")


class SharedLooks:
    """Shared queries: watchers with the same query share one result, if the query began after each of them asked."""

    def __init__(self) -> None:
        self._next: dict[Hashable, asyncio.Task[Any]] = {}
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def ask(self, key: Hashable, question: Callable[[], Awaitable[_T]]) -> _T:
        """Return the next query's result. A running one may have missed the change that woke the caller."""
        if key not in self._next:
            self._next[key] = asyncio.create_task(self._look(key, question))
        answer: _T = await asyncio.shield(self._next[key])
        return answer

    async def _look(self, key: Hashable, question: Callable[[], Awaitable[_T]]) -> _T:
        if key in self._running:
            await asyncio.wait({self._running[key]})
        self._running[key] = self._next.pop(key)
        try:
            return await question()
        finally:
            del self._running[key]


class Listener:
    """Listener for changes. Watchers wait in `changed`, whose limit covers a missed notification."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.looks = SharedLooks()
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def listen(self) -> None:
        """Listen until cancelled; reconnect whenever the connection breaks."""
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self._url, autocommit=True, **CONNECT) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    async for notification in connection.notifies():
                        for event in self._watchers.get(notification.payload, ()):
                            event.set()
            except psycopg.Error as error:
                _log.warning("notifications stopped: %s", error)
            await asyncio.sleep(_PAUSE_S)

    async def changed(self, video_id: str, event: asyncio.Event, limit_s: float) -> None:
        """Wait until the video changes, or for `limit_s` seconds. `event` is the watcher's own, from `watch`."""
        try:
            await asyncio.wait_for(event.wait(), limit_s)
        except TimeoutError:
            return
        event.clear()

    def watch(self, video_id: str) -> asyncio.Event:
        """Register a watcher. Returns its event, which is set when the video changes, until `leave`."""
        event = asyncio.Event()
        self._watchers[video_id].add(event)
        return event

    def leave(self, video_id: str, event: asyncio.Event) -> None:
        """Remove a watcher."""
        self._watchers[video_id].discard(event)
        if not self._watchers[video_id]:
            del self._watchers[video_id]
