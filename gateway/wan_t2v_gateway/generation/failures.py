"""A job's failure in the form that callers get, and what a server's refusal says."""

import re
from typing import Any

from wan_t2v_client.errors import ClientError, RequestRefused, Unavailable

# Texts of gRPC about the connection, and of the client about silence.
_LOST = re.compile(r"Socket closed|Connection reset|Broken pipe|Stream removed|no sign of life")
# Texts of the server about a process of its own.
_DEAD_PROCESS = re.compile(r"Stub process|is not healthy|the health mutex|answered without")
# Texts of a server that takes no job at the moment, whichever it is.
_REFUSES_ALL = re.compile(
    r"generations are under way|takes no new work|Exceeds maximum queue size|Server not ready|stopped accepting new"
)


def failure(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Make the `error` of a video's document."""
    return {"code": code, "message": message[:2000], **({"param": param} if param else {})}


def is_lost(error: Unavailable) -> bool:
    """Whether the server, or the connection to it, was lost during the request."""
    return _LOST.search(str(error)) is not None


def is_dead_process(error: Unavailable) -> bool:
    """Whether a Python process of the server is dead. It may have been so before the request."""
    return _DEAD_PROCESS.search(str(error)) is not None


def refuses_all(error: Unavailable) -> bool:
    """Whether the server says that it is busy or stops, so that it refuses every job and this one is not at fault."""
    return _REFUSES_ALL.search(str(error)) is not None


def failure_of(error: ClientError) -> dict[str, Any]:
    """Convert a client error to a video's `error`; for a rejected request it has the field's name."""
    if isinstance(error, RequestRefused):
        return failure("invalid_request", str(error), error.field)
    return failure("server_error", str(error))
