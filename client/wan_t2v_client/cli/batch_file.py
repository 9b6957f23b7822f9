"""Parse a batch's file of prompts; every line is checked before the first request is sent."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wan_t2v_client.errors import RequestRefused
from wan_t2v_client.fields import FIELDS, not_sendable, plain_value, unknown_field

_NOT_HERE = {"latents", "output_type", "video_encoding", "preview_every"}  # a batch writes MP4 files only
_NAME = re.compile(r"\w[\w .-]{0,99}")
_LONGEST_NAME = 100
_LONGEST_FILE_NAME = 255  # bytes; the limit of nearly every file system
_SLUG_LENGTH = 40


@dataclass(frozen=True)
class BatchRequest:
    """One video to make: its line in the file, from 1, the name of its files, and the request's fields."""

    line: int
    name: str
    fields: Mapping[str, Any]


def requests_from_file(path: Path, defaults: Mapping[str, Any]) -> list[BatchRequest]:
    """Read the requests of a `.txt` file (one prompt per line) or a `.jsonl` file (one object per line).

    Empty lines are skipped. `defaults` are the fields of every request; a line's own fields override them. A line's
    `name` names its files. Without one, the name is made of the prompt and a hash of the request, so that a request
    keeps its name when lines move. Raises RequestRefused with every line that cannot be sent, and the reasons.
    """
    read = {".txt": _fields_from_prompt, ".jsonl": _fields_from_json}.get(path.suffix)
    if read is None:
        raise RequestRefused(f"{path}: accepted are .txt (a prompt a line) and .jsonl (a JSON object a line)")
    same = {key: _check_value(key, value) for key, value in defaults.items()}
    requests: dict[str, BatchRequest] = {}
    wrong = []
    for number, raw in _lines(path):
        try:
            request = _request(number, {**same, **read(raw.decode().strip())}, requests)
            requests[request.name] = request
        except (RequestRefused, UnicodeDecodeError) as error:
            wrong.append(f"{path}, line {number}: {error}")
    if not requests and not wrong:
        wrong.append(f"{path}: there is no prompt in it")
    if wrong:
        raise RequestRefused("\n".join(wrong))
    return list(requests.values())


def _lines(path: Path) -> list[tuple[int, bytes]]:
    """Read the non-empty lines with their numbers. Only a line feed ends a line, not Unicode's other separators."""
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise RequestRefused(f"{path}: {error.strerror}") from None
    return [(number, raw) for number, raw in enumerate(data.split(b"\n"), start=1) if raw.strip()]


def _fields_from_prompt(text: str) -> dict[str, Any]:
    return {"prompt": text}


def _fields_from_json(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestRefused(f"is not JSON: {error.msg} at character {error.pos + 1}") from None
    except (ValueError, RecursionError):
        raise RequestRefused("is JSON with too many levels, or with a number of too many digits") from None
    if not isinstance(fields, dict):
        raise RequestRefused(f'is not a JSON object, such as {{"prompt": "a red ball rolls left"}}: got {text[:40]}')
    return fields


def _request(line: int, given: dict[str, Any], taken: Mapping[str, BatchRequest]) -> BatchRequest:
    name = given.pop("name", None)
    fields = {key: _check_value(key, value) for key, value in given.items() if value is not None}
    if not fields.get("prompt", "").strip():
        raise RequestRefused("prompt: got none; every line needs one")
    if name is None:
        return BatchRequest(line, _free_name(fields, taken), fields)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestRefused(
            f"name: got {str(name)[:_LONGEST_NAME]!r}; accepted are up to 100 letters, digits, spaces, '_', '-' and '.'"
        )
    if len(f"{name}.json".encode()) > _LONGEST_FILE_NAME:
        raise RequestRefused(f"name: {name!r} is longer than a file's name may be, in UTF-8")
    if name in taken:
        raise RequestRefused(f"name: {name!r} is that of line {taken[name].line} too")
    return BatchRequest(line, name, fields)


def _check_value(name: str, value: Any) -> Any:
    """Convert a value to the type that is sent, in JSON's form. Only the server checks ranges and choices."""
    if name in _NOT_HERE:
        raise RequestRefused(f"{name}: cannot be chosen in a batch, which writes MP4 files")
    if name not in FIELDS:
        known = [field for field in FIELDS if field not in _NOT_HERE]
        raise RequestRefused(f"{unknown_field(name)}; known are name, {', '.join(known)}")
    try:
        plain = plain_value(FIELDS[name].datatype, value)
    except (OverflowError, ValueError, TypeError) as error:
        raise not_sendable(name, value, error) from None
    return plain.decode() if isinstance(plain, bytes) else plain


def _free_name(fields: Mapping[str, Any], taken: Mapping[str, BatchRequest]) -> str:
    """Make a name such as `a-red-ball-rolls-left-3f2a9c1b00`; the second of two equal requests ends in `-2`."""
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:10]
    words = re.sub(r"[^a-z0-9]+", "-", fields["prompt"].lower())[:_SLUG_LENGTH].strip("-")
    name, count = f"{words or 'video'}-{digest}", 1
    while (numbered := name if count == 1 else f"{name}-{count}") in taken:
        count += 1
    return numbered
