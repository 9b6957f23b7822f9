"""The tail of an error's message: what a program reads of it.

    height: got 100; accepted: a multiple of 16 from 32 to 256. Nearest: 96. [INVALID_ARGUMENT field=height]
    1 generations are under way (limit 1) and 4 wait (limit 4); try again later [UNAVAILABLE retry_after_s=5]

Triton sends a stream's errors without their code, and 2.51 calls every error of a called model INTERNAL. Texts arrive
everywhere as they are. The client reads the same form: client/wan_t2v_client/error_tail.py.
"""

import re
from dataclasses import dataclass

_TAIL = re.compile(r" \[(?P<status>[A-Z_]+)(?: field=(?P<field>[a-z0-9_,]+))?(?: retry_after_s=(?P<seconds>\d+))?\]\Z")

STATUS_OF_CODE = {
    "INVALID_ARG": "INVALID_ARGUMENT",
    "UNSUPPORTED": "UNIMPLEMENTED",
    **{same: same for same in ("UNAVAILABLE", "INTERNAL", "CANCELLED", "ALREADY_EXISTS", "NOT_FOUND")},
}
"""gRPC's names of `TritonError`'s codes."""


@dataclass(frozen=True)
class ErrorTail:
    """What a message's tail says.

    Attributes:
        status: gRPC's name of the code.
        field: the request's field that is to be changed; several are separated by commas.
        retry_after_s: the seconds after which the same request may be admitted.
    """

    status: str
    field: str | None = None
    retry_after_s: int | None = None

    def __str__(self) -> str:
        field = "" if self.field is None else f" field={self.field.replace(' ', '')}"
        seconds = "" if self.retry_after_s is None else f" retry_after_s={self.retry_after_s}"
        return f" [{self.status}{field}{seconds}]"


def split_tail(message: str) -> tuple[str, ErrorTail | None]:
    """A message without its tail, and the tail; None where the message has none, as Triton's own."""
    found = _TAIL.search(message)
    if found is None:
        return message, None
    seconds = None if found["seconds"] is None else int(found["seconds"])
    return message[: found.start()], ErrorTail(found["status"], found["field"], seconds)
