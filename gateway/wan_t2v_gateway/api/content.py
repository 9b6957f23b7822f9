"""A finished video's files, whole or in ranges."""

import re
from collections.abc import AsyncIterator
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from wan_t2v_gateway.api.errors import ApiError
from wan_t2v_gateway.api.state import TheGateway, TheOwner
from wan_t2v_gateway.api.videos import existing
from wan_t2v_gateway.database import videos
from wan_t2v_gateway.storage.store import NAMES, TYPES, Store

router = APIRouter(tags=["videos"])
Variant = Literal["video", "thumbnail", "spritesheet"]


@router.head("/v1/videos/{video_id}/content", include_in_schema=False)
@router.get("/v1/videos/{video_id}/content", response_class=Response)
async def get_content(
    request: Request,
    video_id: str,
    gateway: TheGateway,
    owner: TheOwner,
    variant: Variant = "video",
    redirect: bool = True,
) -> Response:
    """Return the MP4, a thumbnail or a sheet of frames; `redirect=false` prevents a redirect to the bucket."""
    video = await existing(gateway, owner, video_id)
    if video.status != "completed":
        raise ApiError(409 if video.is_finished else 425, f"the video is {video.status}; it has no content")
    store = gateway.services.store
    info = await store.info(video.files_folder, variant)
    if info is None:
        raise ApiError(404, f"there is no {variant} of {video_id}", param="variant")
    seconds = gateway.services.settings.redirect_s
    if seconds and redirect and request.method == "GET":
        address = await store.signed_address(video.files_folder, variant, seconds)
        return RedirectResponse(address, 307, headers={"cache-control": "no-store"})
    headers = _headers(video_id, variant, etag=info.etag)
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return await _file(request, store, video.files_folder, variant, size=info.size, headers=headers)


def _headers(video_id: str, variant: Variant, *, etag: str) -> dict[str, str]:
    """Make a file's headers, which are the same for the whole file, a range and an unchanged file."""
    suffix = NAMES[variant].rpartition(".")[2]
    name = video_id if variant == "video" else f"{video_id}-{variant}"
    return {
        "etag": f'"{etag}"',
        "accept-ranges": "bytes",
        "cache-control": "private, max-age=3600",
        "content-disposition": f'inline; filename="{name}.{suffix}"',
        "x-content-type-options": "nosniff",
    }


async def _file(
    request: Request, store: Store, folder: str, variant: Variant, *, size: int, headers: dict[str, str]
) -> Response:
    """Respond with a file or the requested range of it; to HEAD without the bytes. Raises ApiError 416."""
    start, end = _range(request, size, etag=headers["etag"])
    partial = (start, end) != (0, size)
    status = 206 if partial else 200
    headers = {**headers, "content-length": str(end - start)}
    if partial:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=TYPES[variant])
    parts = store.read(folder, variant, start=start, end=end)
    first = await anext(parts, b"")  # before the headers are sent, so that a store that is away is a 503
    return StreamingResponse(_resume(first, parts), status, headers, media_type=TYPES[variant])


async def _resume(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a part that was already read, then the others."""
    yield first
    async for part in rest:
        yield part


def _range(request: Request, size: int, *, etag: str) -> tuple[int, int]:
    """Return start and end (exclusive) of the requested range, or of the whole file. Raises ApiError 416."""
    wanted = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("range", "").replace(" ", ""))
    if wanted is None or not (wanted[1] or wanted[2]) or request.headers.get("if-range", etag) != etag:
        return 0, size
    if wanted[1]:
        start, end = int(wanted[1]), min(size, int(wanted[2]) + 1) if wanted[2] else size
    else:
        start, end = max(0, size - int(wanted[2])), size
    if start >= end:
        raise ApiError(416, f"the range is beyond {size} bytes", headers={"content-range": f"bytes */{size}"})
    return start, end


@router.get("/v1/videos/{video_id}/preview", response_class=Response)
async def get_preview(video_id: str, gateway: TheGateway, owner: TheOwner) -> Response:
    """Return the latest preview of a video in progress, a PNG."""
    await existing(gateway, owner, video_id)
    picture = await videos.preview(gateway.services.database, video_id)
    if picture is None:
        raise ApiError(404, "there is no preview yet")
    return Response(picture, media_type="image/png", headers={"cache-control": "no-store"})
