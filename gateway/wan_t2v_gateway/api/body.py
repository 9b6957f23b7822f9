"""Parsing of a request's body, JSON or form, into one flat mapping, with limits on length, depth and time."""

import asyncio
import json
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from wan_t2v_gateway.api.errors import ApiError

LARGEST_BODY = 256 * 1024
SLOWEST_BODY_S = 20.0
_MOST_FIELDS = 100
_CLOSE = {"connection": "close"}
_JSON, _FORM, _PARTS = "application/json", "application/x-www-form-urlencoded", "multipart/form-data"
_CHARSETS = ("utf-8", "utf8", "us-ascii")


async def read_body(request: Request) -> dict[str, Any]:
    """Read the body's fields. A form's numbers stay texts, and a form's file becomes an object. Raises ApiError."""
    kind, charset, boundary = _content_type(request)
    coding = request.headers.get("content-encoding", "identity")
    if kind not in (_JSON, _FORM, _PARTS):
        raise ApiError(415, f"content-type: got {kind[:100]}; accepted: {_JSON}, {_PARTS}")
    if charset not in _CHARSETS:
        raise ApiError(415, f"content-type: got charset {charset[:100]}; accepted: utf-8")
    if coding.strip().lower() != "identity":
        raise ApiError(415, f"content-encoding: got {coding[:100]}; accepted: identity")
    raw = await _bounded(request)
    try:
        if kind == _JSON:
            return _from_json(raw)
        return _table(_pairs(raw) if kind == _FORM else await _parts(request, raw, boundary))
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8") from None


def _content_type(request: Request) -> tuple[str, str, str]:
    """Return media type, charset and boundary; those of JSON without a content-type. Raises ApiError."""
    text = request.headers.get("content-type") or _JSON
    header = Message()
    header["content-type"] = text
    try:
        charset, boundary = (header.get_param(name) or "" for name in ("charset", "boundary"))
    except (ValueError, TypeError):  # RFC 2231 continuations with a huge or missing number
        raise ApiError(415, "content-type: its parameters cannot be read") from None
    return text.split(";")[0].strip().lower(), str(charset or "utf-8").lower(), str(boundary)


async def _bounded(request: Request) -> bytes:
    parts, length = [], 0
    too_long = ApiError(413, f"the body is longer than {LARGEST_BODY} bytes")
    if int(request.headers.get("content-length", 0)) > LARGEST_BODY:
        raise too_long
    try:
        async with asyncio.timeout(SLOWEST_BODY_S):
            async for part in request.stream():
                length += len(part)
                if length > LARGEST_BODY:
                    raise too_long
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {SLOWEST_BODY_S:g} seconds", headers=_CLOSE) from None
    request._body = b"".join(parts)  # where starlette caches the body, and parses forms from
    return request._body


def _from_json(raw: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(raw.decode("utf-8-sig") or "{}", object_pairs_hook=_table)
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is no JSON") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "the body must be one JSON object")
    return fields


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a mapping. Raises ApiError for a name that occurs twice, since either value could be meant."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ApiError(400, f"{name[:64]}: given twice", param=name[:64])
        fields[name] = value
    return fields


def _pairs(raw: bytes) -> list[tuple[str, Any]]:
    try:
        return parse_qsl(raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except UnicodeDecodeError:
        raise
    except ValueError:
        raise ApiError(400, f"the form cannot be read, or has more than {_MOST_FIELDS} fields") from None


async def _parts(request: Request, raw: bytes, boundary: str) -> list[tuple[str, Any]]:
    """Parse a multipart form. Check its end first: the parser accepts a truncated form and drops the last part."""
    end = f"\r\n--{boundary}--".encode()
    if not boundary or raw.count(end) != 1 or not raw.rstrip().endswith(end):
        raise ApiError(400, "the form cannot be read: it has no end, or content-type names no boundary")
    try:
        async with request.form(max_files=1, max_fields=_MOST_FIELDS) as form:
            pairs: list[tuple[str, Any]] = [
                (name, {"file": value.filename} if isinstance(value, UploadFile) else value)
                for name, value in form.multi_items()
            ]
    except HTTPException as error:
        raise ApiError(400, f"the form cannot be read: {error.detail}") from None
    if not any(isinstance(value, dict) for _, value in pairs):
        raw.decode()  # the parser reads other encodings as Latin-1; only files, which are rejected later, may be binary
    return pairs
