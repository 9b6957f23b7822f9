"""A video's events as server-sent events; a client that reconnects sends `Last-Event-ID`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from wan_t2v_gateway.api.errors import ApiError
from wan_t2v_gateway.api.state import Gateway, TheGateway, TheOwner
from wan_t2v_gateway.api.videos import existing
from wan_t2v_gateway.database import videos
from wan_t2v_gateway.database.limit import DatabaseUnavailable
from wan_t2v_gateway.database.records import FINISHED, Video

router = APIRouter(tags=["videos"])
_LOOK_S = 1.0  # polling interval, in case a notification is lost
_SIGN_OF_LIFE_S = 15.0


@router.get("/v1/videos/{video_id}/events", response_class=StreamingResponse)
async def watch_video(request: Request, video_id: str, gateway: TheGateway, owner: TheOwner) -> StreamingResponse:
    """Send events `queue` (place and estimate), `stage`, `step`, and last `completed`, `failed` or `cancelled`."""
    video = await existing(gateway, owner, video_id)
    last_id = request.headers.get("last-event-id", "0")
    if not (last_id.isdecimal() and len(last_id) < 19):
        raise ApiError(400, f"Last-Event-ID: got {last_id[:50]!r}; accepted: an id of an event", param="Last-Event-ID")
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_events(gateway, video, int(last_id)), headers=headers, media_type="text/event-stream")


@dataclass(frozen=True)
class _Look:
    """New events of a video, its place in the queue if it waits, and whether its record exists."""

    news: list[dict[str, Any]]
    place: dict[str, Any] | None
    there: bool


async def _events(gateway: Gateway, video: Video, last_id: int) -> AsyncIterator[str]:
    listener = gateway.listener
    event = listener.watch(video.id)
    written, place = time.monotonic(), None
    try:
        while True:
            try:
                look = await listener.looks.ask((video.id, last_id), partial(_look, gateway, video.id, last_id))
                news, place_now, there = look.news, look.place, look.there
            except DatabaseUnavailable:
                news, place_now, there = [], place, True
                await asyncio.sleep(_LOOK_S)
            for told in news:
                last_id, written = told["id"], time.monotonic()
                yield _event(told["kind"], {**told["data"], "at": told["at"]}, last_id)
                if told["kind"] in FINISHED:
                    return
            if place_now != place and place_now is not None:
                place, written = place_now, time.monotonic()
                yield _event("queue", place_now, None)
            if not news and not there:
                yield _event("deleted", {}, None)
                return
            if time.monotonic() - written > _SIGN_OF_LIFE_S:
                written = time.monotonic()
                yield ": still here\n\n"
            await listener.changed(video.id, event, _LOOK_S)
    finally:
        listener.leave(video.id, event)


async def _look(gateway: Gateway, video_id: str, last_id: int) -> _Look:
    database = gateway.services.database
    news = await videos.events_after(database, video_id, last_id)
    video = await videos.find(database, video_id, None)
    place = await videos.place(database, video) if video is not None and video.status == "queued" else None
    return _Look(news, place, video is not None)


def _event(kind: str, data: dict[str, Any], event_id: int | None) -> str:
    head = "" if event_id is None else f"id: {event_id}\n"
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n"
