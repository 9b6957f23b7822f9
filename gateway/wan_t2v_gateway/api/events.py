"""A video's events as server-sent events; a client that reconnects sends `Last-Event-ID`."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from wan_t2v_gateway.api.errors import ApiError
from wan_t2v_gateway.api.state import Gateway, TheGateway, TheOwner
from wan_t2v_gateway.api.videos import existing
from wan_t2v_gateway.database import videos
from wan_t2v_gateway.database.call_limit import DatabaseUnavailable
from wan_t2v_gateway.database.records import FINISHED, Video

router = APIRouter(tags=["videos"])
_LOOK_S = 1.0  # polling interval, in case a notification is lost
_SIGN_OF_LIFE_S = 15.0
_MOST_STREAMS = 256  # open streams of one owner in one process: each may look each second
_NO_MORE = 204  # stops an EventSource, which reconnects after every other end


@router.get("/v1/videos/{video_id}/events", response_class=StreamingResponse)
async def watch_video(request: Request, video_id: str, gateway: TheGateway, owner: TheOwner) -> Response:
    """Send events `queue` (place and estimate), `stage`, `step`, and last `completed`, `failed` or `cancelled`.

    The response is 204 if the video has ended and `Last-Event-ID` is its last event.
    """
    video = await existing(gateway, owner, video_id)
    last_id = await _last_event(request, gateway, video)
    if last_id is None:
        return Response(status_code=_NO_MORE)
    if gateway.streams[owner.name] >= _MOST_STREAMS:
        message = (
            f"{_MOST_STREAMS} event streams of yours are open here (limit {_MOST_STREAMS}); close one, or look again"
        )
        raise ApiError(429, message, headers={"retry-after": "1"})
    return _OwnersStream(_events(gateway, video, last_id), gateway.streams, owner.name)


async def _last_event(request: Request, gateway: Gateway, video: Video) -> int | None:
    """Return the id of the last event that the caller knows; None if that was a finished video's last.

    A larger id is replaced by the newest one, so that all watchers that are up to date share one query. The record must
    have been read before: its last event is then among those counted here.
    """
    given = request.headers.get("last-event-id", "0")
    if not (given.isdecimal() and len(given) < 19):
        raise ApiError(400, f"Last-Event-ID: got {given[:50]!r}; accepted: an id of an event", param="Last-Event-ID")
    row = await gateway.services.database.row(
        "SELECT coalesce(max(id), 0) AS newest FROM video_events WHERE video_id = %s", [video.id]
    )
    newest = row["newest"] if row else 0
    return None if video.is_finished and int(given) >= newest else min(int(given), newest)


class _OwnersStream(StreamingResponse):
    """A stream of events that counts as one of its owner's while it is sent."""

    def __init__(self, events: AsyncIterator[str], streams: Counter[str], owner: str) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._streams, self._owner = streams, owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, until its end or until the caller leaves."""
        self._streams[self._owner] += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams -= Counter([self._owner])  # which drops an owner without streams


@dataclass(frozen=True)
class _Look:
    """Rows of a video's new events, its place in the queue if it waits, and whether more may come.

    `there`: whether its record exists; `ended`: whether the video had ended before the events were read.
    """

    rows: list[dict[str, Any]]
    place: dict[str, Any] | None
    there: bool = True
    ended: bool = False


async def _events(gateway: Gateway, video: Video, last_id: int) -> AsyncIterator[str]:
    listener = gateway.listener
    event = listener.watch(video.id)
    written, place = time.monotonic(), None
    try:
        while True:
            try:
                look: _Look = await listener.looks.ask((video.id, last_id), partial(_look, gateway, video.id, last_id))
            except DatabaseUnavailable:
                look = _Look([], place)
                await asyncio.sleep(_LOOK_S)
            for row in look.rows:
                last_id, written = row["id"], time.monotonic()
                yield _event(row["kind"], {**row["data"], "at": row["at"]}, last_id)
                if row["kind"] in FINISHED:
                    return
            if look.place != place and look.place is not None:
                place, written = look.place, time.monotonic()
                yield _event("queue", look.place, None)
            if not look.rows and not look.there:
                yield _event("deleted", {}, None)
            if not look.rows and (look.ended or not look.there):
                return
            if time.monotonic() - written > _SIGN_OF_LIFE_S:
                written = time.monotonic()
                yield ": still here\n\n"
            if gateway.stopping.is_set():  # its caller comes again, and is answered by another gateway or a later one
                return
            await listener.changed(video.id, event, _LOOK_S)
    finally:
        listener.leave(video.id, event)


async def _look(gateway: Gateway, video_id: str, last_id: int) -> _Look:
    database = gateway.services.database
    video = await videos.find(database, video_id, None)  # before its events: then an ended video's last is among them
    rows = await videos.events_after(database, video_id, last_id)
    place = await videos.place(database, video) if video is not None and video.status == "queued" else None
    return _Look(rows, place, there=video is not None, ended=video is not None and video.is_finished)


def _event(kind: str, data: dict[str, Any], event_id: int | None) -> str:
    head = "" if event_id is None else f"id: {event_id}\n"
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n"
