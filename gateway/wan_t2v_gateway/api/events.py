"""A video's events as they come: server-sent events, with `Last-Event-ID` for who comes back."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
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
_LOOK_S = 1.0  # also without a notification
_SIGN_OF_LIFE_S = 15.0


@router.get("/v1/videos/{video_id}/events", response_class=StreamingResponse)
async def watch_video(request: Request, video_id: str, gateway: TheGateway, owner: TheOwner) -> StreamingResponse:
    """`queue` (place and estimate), `stage`, `step`, and the end: `completed`, `failed` or `cancelled`."""
    video = await existing(gateway, owner, video_id)
    last_id = request.headers.get("last-event-id", "0")
    if not (last_id.isdecimal() and len(last_id) < 19):
        raise ApiError(400, f"Last-Event-ID: got {last_id[:50]!r}; accepted: an id of an event", param="Last-Event-ID")
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_events(gateway, video, int(last_id)), headers=headers, media_type="text/event-stream")


async def _events(gateway: Gateway, video: Video, last_id: int) -> AsyncIterator[str]:
    database, listener = gateway.services.database, gateway.listener
    event = listener.watch(video.id)
    written, place = time.monotonic(), None
    try:
        while True:
            try:
                news = await videos.events_after(database, video.id, last_id)
                place_now = await _place(gateway, video.id)
            except DatabaseUnavailable:
                news, place_now = [], place
                await asyncio.sleep(_LOOK_S)
            for told in news:
                last_id, written = told["id"], time.monotonic()
                yield _event(told["kind"], {**told["data"], "at": told["at"]}, last_id)
                if told["kind"] in FINISHED:
                    return
            if place_now != place and place_now is not None:
                place, written = place_now, time.monotonic()
                yield _event("queue", place_now, None)
            if not news and await videos.find(database, video.id, None) is None:
                yield _event("deleted", {}, None)
                return
            if time.monotonic() - written > _SIGN_OF_LIFE_S:
                written = time.monotonic()
                yield ": still here\n\n"
            await listener.changed(video.id, event, _LOOK_S)
    finally:
        listener.leave(video.id, event)


async def _place(gateway: Gateway, video_id: str) -> dict[str, Any] | None:
    """The place in the queue; None for a video that does not wait."""
    video = await videos.find(gateway.services.database, video_id, None)
    if video is None or video.status != "queued":
        return None
    return await videos.place(gateway.services.database, video)


def _event(kind: str, data: dict[str, Any], event_id: int | None) -> str:
    head = "" if event_id is None else f"id: {event_id}\n"
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n"
