"""The Videos API: create, read, list, delete, cancel and remix jobs."""

import hashlib
import json
import secrets
from contextlib import AbstractContextManager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from wan_t2v_gateway.api.body import read_body
from wan_t2v_gateway.api.documents import video_document
from wan_t2v_gateway.api.errors import ApiError
from wan_t2v_gateway.api.fields import MODEL, OFFERED, VideoRequest, remaining, video_request
from wan_t2v_gateway.api.limits import limits_document, with_defaults
from wan_t2v_gateway.api.openapi import CREATE, REMIX
from wan_t2v_gateway.api.state import Gateway, TheGateway, TheOwner
from wan_t2v_gateway.api.webhook_address import check_webhook_url
from wan_t2v_gateway.database import videos
from wan_t2v_gateway.database.creation import NewVideo, create
from wan_t2v_gateway.database.owners import Owner
from wan_t2v_gateway.database.records import Video
from wan_t2v_gateway.tracing import Span, context_of

router = APIRouter(tags=["videos"])
Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]


@router.post("/v1/videos", openapi_extra=CREATE)
async def create_video(request: Request, gateway: TheGateway, owner: TheOwner) -> JSONResponse:
    """Queue a video. The response comes immediately; the video is made later."""
    with _traced(request, gateway) as span:
        given = await read_body(request)
        checked = video_request(given, await gateway.limits.read())
        return await _create(request, gateway, owner, checked, given=given, remixed_from=None, span=span)


@router.post("/v1/videos/{video_id}/remix", openapi_extra=REMIX)
async def remix_video(request: Request, video_id: str, gateway: TheGateway, owner: TheOwner) -> JSONResponse:
    """Queue a new job with another video's settings and seed, and another prompt."""
    with _traced(request, gateway) as span:
        before = await existing(gateway, owner, video_id)
        given = await read_body(request)
        made_with = {
            name: value for name, value in (before.metadata or {}).get("settings", {}).items() if name == "seed"
        }
        inherited = remaining({**before.fields, **made_with}, given)
        checked = video_request({**inherited, **given}, await gateway.limits.read())
        given = {**given, "remix": before.id}
        return await _create(request, gateway, owner, checked, given=given, remixed_from=before.id, span=span)


def _traced(request: Request, gateway: Gateway) -> AbstractContextManager[Span]:
    """Open a span for the request in its caller's trace; the job's spans become its children."""
    name = f"POST {request.scope['route'].path}"
    return gateway.services.tracer.span(name, context_of(request.headers))


async def _create(
    request: Request,
    gateway: Gateway,
    owner: Owner,
    checked: VideoRequest,
    *,
    given: dict[str, Any],
    remixed_from: str | None,
    span: Span,
) -> JSONResponse:
    services = gateway.services
    key = _idempotency_key(request)
    webhook_url = checked.webhook_url or owner.webhook_url
    if checked.webhook_url:
        hosts, names = services.settings.webhook_hosts, services.names
        await check_webhook_url(checked.webhook_url, hosts, names=names, owner=owner.name)
    new = NewVideo(
        id=f"video_{secrets.token_hex(12)}",
        owner=owner.name,
        model=checked.model,
        fields=checked.fields,
        webhook_url=webhook_url,
        remixed_from=remixed_from,
        idempotency_key=key,
        body_hash=hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest(),
        allowance=owner.allowance,
        trace=span.context,
    )
    video = await create(services.database, new, services.queue.add_video)
    span.note(video=video.id)
    return JSONResponse(await _document(gateway, video))


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= 255:
        raise ApiError(400, "Idempotency-Key: accepted: 1 to 255 characters", param="Idempotency-Key")
    return key


@router.get("/v1/videos")
async def list_videos(
    gateway: TheGateway,
    owner: TheOwner,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    status: Status | None = None,
) -> JSONResponse:
    """List your videos, the newest first."""
    found = await videos.page(
        gateway.services.database,
        owner=owner.sees,
        status=status,
        after=after,
        limit=limit + 1,
        newest_first=order == "desc",
    )
    if after is not None and not found and not await videos.has_place(gateway.services.database, after, owner.sees):
        raise ApiError(400, f"after: got {after[:100]!r}; accepted: the id of a video that is there", param="after")
    data = [video_document(video) for video in found[:limit]]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return JSONResponse({"object": "list", "data": data, **ends, "has_more": len(found) > limit})


@router.get("/v1/videos/{video_id}")
async def get_video(video_id: str, gateway: TheGateway, owner: TheOwner) -> JSONResponse:
    """Return one video, with its place in the queue while it waits."""
    return JSONResponse(await _document(gateway, await existing(gateway, owner, video_id)))


@router.post("/v1/videos/{video_id}/cancel")
async def cancel_video(video_id: str, gateway: TheGateway, owner: TheOwner) -> JSONResponse:
    """Cancel a job: a waiting one never starts, a running one stops within one pass of the model."""
    video = await existing(gateway, owner, video_id)
    if not video.is_finished:
        video = await gateway.services.cancel(video)
    return JSONResponse(await _document(gateway, video))


@router.delete("/v1/videos/{video_id}")
async def delete_video(video_id: str, gateway: TheGateway, owner: TheOwner) -> JSONResponse:
    """Cancel the job if it is unfinished, and remove record, prompt and files."""
    await gateway.services.remove(await existing(gateway, owner, video_id))
    return JSONResponse({"id": video_id, "deleted": True, "object": "video.deleted"})


@router.get("/v1/models")
async def list_models(gateway: TheGateway, owner: TheOwner) -> JSONResponse:
    """List the model, with the limits that its server publishes; null before any server answered."""
    limits = await gateway.limits.find()
    if limits is not None:
        limits = with_defaults(limits, gateway.services.settings.field_defaults)
    shown = limits_document(limits, OFFERED)
    model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "local", "limits": shown}
    return JSONResponse({"object": "list", "data": [model]})


async def existing(gateway: Gateway, owner: Owner, video_id: str) -> Video:
    """Find the owner's video. Raises ApiError 404 if there is none; another owner's video counts as none."""
    video = await videos.find(gateway.services.database, video_id, owner.sees)
    if video is None:
        raise ApiError(404, f"there is no video {video_id[:100]!r}", param="video_id")
    return video


async def _document(gateway: Gateway, video: Video) -> dict[str, Any]:
    if video.status != "queued":
        return video_document(video)
    return video_document(video, await videos.place(gateway.services.database, video))
