"""Headers of every call: which can be sent, and which are secret."""

import re
from collections.abc import Mapping
from pathlib import Path

from wan_t2v_client.errors import RequestRefused

_NAME = re.compile(r"[0-9a-z_.-]+")
_UNSENDABLE = re.compile(r"[^ -~]")
_SECRET = re.compile(r"auth|cookie|credential|key|passw|secret|token")


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise RequestRefused for a name or value that gRPC cannot send. No message has a value, which may be secret."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise RequestRefused(f"header: got the name {name[:80]!r}; accepted: letters, digits, '-', '_' and '.'")
        if name.startswith("grpc-") or name.endswith("-bin"):
            raise RequestRefused(
                f"header: got the name {name[:80]!r}; 'grpc-...' is gRPC's own, '...-bin' holds no text"
            )
        if not isinstance(value, str):
            raise RequestRefused(f"header {name!r}: got a {type(value).__name__}; accepted: a text")
        wrong = _UNSENDABLE.search(value)
        if wrong:
            where = f"{wrong[0]!r} as character {wrong.start() + 1} of its value"
            raise RequestRefused(f"header {name!r}: got {where}; accepted: printable ASCII")


def secret_headers(headers: Mapping[str, str]) -> list[str]:
    """Return the names of headers that look like a password, a key or a token."""
    return [name for name in headers if _SECRET.search(name)]


def headers_from_file(path: Path) -> dict[str, str]:
    """Read a file of headers. Raises RequestRefused."""
    try:
        return headers_from_lines(path.read_text(encoding="utf-8-sig"), source=str(path))
    except OSError as error:
        raise RequestRefused(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RequestRefused(f"{path}: is not UTF-8 text") from None


def headers_from_lines(text: str, *, source: str) -> dict[str, str]:
    """Parse a text with one NAME:VALUE per line. Empty lines and those that begin with '#' are skipped.

    `source` names the text in errors. Raises RequestRefused.
    """
    headers = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                name, value = header_from_text(line)
            except ValueError as error:
                raise RequestRefused(f"{source}, line {number}: {error}") from None
            headers[name] = value
    return headers


def header_from_text(text: str) -> tuple[str, str]:
    """Split NAME:VALUE. Raises ValueError, which does not quote the text."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError("a header is NAME:VALUE")
    return name.strip().lower(), value.strip()
