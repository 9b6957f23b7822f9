"""One connection of this process that hears of changed videos, and wakes who watches them."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

import psycopg

from wan_t2v_gateway.database.progress import CHANNEL

_log = logging.getLogger(__name__)
_PAUSE_S = 1.0
_T = TypeVar("_T")


class SharedLooks:
    """Watchers with the same question share one answer, which was asked for after each of them came."""

    def __init__(self) -> None:
        self._next: dict[Hashable, asyncio.Task[Any]] = {}
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def ask(self, key: Hashable, question: Callable[[], Awaitable[_T]]) -> _T:
        """The answer of the next look. One that runs already may have missed what the caller was woken for."""
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
    """Watchers wait on `changed`; a missed notification costs them one second."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.looks = SharedLooks()
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
