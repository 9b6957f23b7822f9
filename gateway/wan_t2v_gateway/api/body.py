"""A request's body, JSON or a form, as one flat table of values; bounded in length, depth and time."""

import asyncio
import json
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from wan_t2v_gateway.api.errors import ApiError

LARGEST_BODY = 256 * 1024
SLOWEST_BODY_S = 20.0
_MOST_FIELDS = 100
_CLOSE = {"connection": "close"}  # what is still to come is not read


async def read_body(request: Request) -> tuple[dict[str, Any], bytes]:
    """The fields, and the bytes that they were read from. Numbers of a form are texts."""
    raw = await _bounded(request)
    kind = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return await _form(request), raw
    if kind != "application/json":
        raise ApiError(415, f"content-type: got {kind[:100]}; accepted: application/json, multipart/form-data")
    try:
        fields = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is no JSON") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "the body must be one JSON object")
    return fields, raw


async def _bounded(request: Request) -> bytes:
    parts, length = [], 0
    try:
        async with asyncio.timeout(SLOWEST_BODY_S):
            async for part in request.stream():
                length += len(part)
                if length > LARGEST_BODY:
                    raise ApiError(413, f"the body is longer than {LARGEST_BODY} bytes", headers=_CLOSE)
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {SLOWEST_BODY_S:g} seconds", headers=_CLOSE) from None
    request._body = b"".join(parts)  # starlette's own place for a body that was read: the form is parsed from it
    return request._body


async def _form(request: Request) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    try:
        async with request.form(max_files=1, max_fields=_MOST_FIELDS) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    value = "a file"
                if name in fields:
                    raise ApiError(400, f"{name}: given twice", param=name)
                fields[name] = value
    except HTTPException as error:
        raise ApiError(400, f"the form cannot be read: {error.detail}") from None
    return fields
