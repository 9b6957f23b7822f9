"""A job's failure in the form that callers get, and the errors that mean a dead server."""

import re
from typing import Any

from wan_t2v_client.errors import ClientError, RequestRefused, Unavailable

# Texts of the server about a process of its own, of gRPC about the connection, and of the client about silence.
_DEATHS = re.compile(
    r"Stub process|is not healthy|answered without|Socket closed|Connection reset|Broken pipe|Stream removed"
    r"|no sign of life"
)


def failure(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Make the `error` of a video's document."""
    return {"code": code, "message": message[:2000], **({"param": param} if param else {})}


def is_death(error: Unavailable) -> bool:
    """Whether the server, one of its processes or the connection died; False for a server that only refuses."""
    return _DEATHS.search(str(error)) is not None


def failure_of(error: ClientError) -> dict[str, Any]:
    """Convert a client error to a video's `error`; for a rejected request it has the field's name."""
    if isinstance(error, RequestRefused):
        return failure("invalid_request", str(error), error.field)
    return failure("server_error", str(error))
