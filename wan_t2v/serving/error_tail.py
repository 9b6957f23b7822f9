"""The machine-readable tail of an error's message.

    height: got 100; accepted: a multiple of 16 from 16 to 256 pixels. Nearest: 96. [INVALID_ARGUMENT field=height]
    1 generations are under way (limit 1) and 4 wait (limit 4); try again later [UNAVAILABLE retry_after_s=5]

Triton sends a stream's errors without their code, and 2.51 reports every error of a called model as INTERNAL. Only the
text always arrives unchanged. The client parses the same form: client/wan_t2v_client/error_tail.py.
"""

import re
from dataclasses import dataclass

_TAIL = re.compile(r" \[(?P<status>[A-Z_]+)(?: field=(?P<field>[a-z0-9_,]+))?(?: retry_after_s=(?P<seconds>\d+))?\]\Z")

_NAMES = re.compile(r"[a-z0-9_,]{1,200}")

STATUS_OF_CODE = {
    "INVALID_ARG": "INVALID_ARGUMENT",
    "UNSUPPORTED": "UNIMPLEMENTED",
    **{same: same for same in ("UNAVAILABLE", "INTERNAL", "CANCELLED", "ALREADY_EXISTS", "NOT_FOUND")},
}
"""gRPC's names of `TritonError`'s codes."""


@dataclass(frozen=True)
class ErrorTail:
    """Content of a message's tail.

    Attributes:
        status: gRPC's name of the code.
        field: field of the request that the caller must change; several are separated by commas.
        retry_after_s: seconds after which the same request may be admitted.
    """

    status: str
    field: str | None = None
    retry_after_s: int | None = None

    def __str__(self) -> str:
        names = "" if self.field is None else self.field.replace(" ", "")
        field = (
            f" field={names}" if _NAMES.fullmatch(names) else ""
        )  # else a caller's own text, which the message quotes
        seconds = "" if self.retry_after_s is None else f" retry_after_s={self.retry_after_s}"
        return f" [{self.status}{field}{seconds}]"


def split_tail(message: str) -> tuple[str, ErrorTail | None]:
    """Split a message into text and tail; the tail is None for a message without one, such as Triton's own."""
    found = _TAIL.search(message)
    if found is None:
        return message, None
    seconds = None if found["seconds"] is None else int(found["seconds"])
    return message[: found.start()], ErrorTail(found["status"], found["field"], seconds)
