"""The machine-readable tail of a server's error message. The client parses it, since Triton loses codes in streams.

    height: got 100; accepted: a multiple of 16 from 16 to 256 pixels. Nearest: 96. [INVALID_ARGUMENT field=height]
    1 generations are under way (limit 1) and 4 wait (limit 4); try again later [UNAVAILABLE retry_after_s=5]

The server writes it: wan_t2v/serving/error_tail.py.
"""

import re
from dataclasses import dataclass

_LONGEST_S = 1e8  # a longer time is no estimate, and cannot be slept
_TAIL = re.compile(r" \[(?P<status>[A-Z_]+)(?P<values>(?: [a-z_]+=[^ \]]+)*)\]\Z")


@dataclass(frozen=True)
class ErrorTail:
    """gRPC's name of the code, the field that the caller must change, and the seconds to wait before a retry."""

    status: str
    field: str | None = None
    retry_after_s: float | None = None


def split_tail(message: str) -> tuple[str, ErrorTail | None]:
    """Split a message into text and tail; the tail is None for a message without one, such as Triton's own."""
    found = _TAIL.search(message)
    if found is None:
        return message, None
    values = dict(pair.split("=", 1) for pair in found["values"].split())
    return message[: found.start()], ErrorTail(found["status"], values.get("field"), _seconds(values))


def _seconds(values: dict[str, str]) -> float | None:
    try:
        seconds = float(values["retry_after_s"])
    except (KeyError, ValueError):  # a newer server may use another form
        return None
    return seconds if 0.0 <= seconds <= _LONGEST_S else None
