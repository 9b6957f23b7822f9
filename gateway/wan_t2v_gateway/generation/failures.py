"""A client error as a job's `error`, and what a server's refusal says."""

from collections.abc import Iterable
from typing import Any

from wan_t2v_client.errors import (
    DEAD_PROCESS,
    TAKES_NO_REQUEST,
    ClientError,
    RequestRefused,
    ServerSilent,
    Unavailable,
)

from wan_t2v_gateway.database.ending import failure

# Texts of gRPC about the connection.
_CONNECTION_LOST = ("Socket closed", "Connection reset", "Broken pipe", "Stream removed")
# Triton's texts, and the server's for a response that a dying process left without outputs, and for a GPU fault, after
# which no process of the server can work.
_DEAD_PROCESS = (*DEAD_PROCESS, "Stub process", "answered without", "the GPU failed")
# The server's own texts for a full queue and a drain, then Triton's. A test takes the server's from its exceptions.
_REFUSES_ALL = ("generations are under way", "takes no new work", *TAKES_NO_REQUEST)


def is_lost(error: Unavailable) -> bool:
    """Whether the server, or the connection to it, was lost during the request."""
    return isinstance(error, ServerSilent) or _has_any(error, _CONNECTION_LOST)


def is_dead_process(error: Unavailable) -> bool:
    """Whether a Python process of the server is dead. It may have been so before the request."""
    return _has_any(error, _DEAD_PROCESS)


def refuses_all(error: Unavailable) -> bool:
    """Whether the server says that it is busy or stops, so that it refuses every job and this one is not at fault."""
    return _has_any(error, _REFUSES_ALL)


def failure_of(error: ClientError) -> dict[str, Any]:
    """Convert a client error to a video's `error`; for a rejected request it has the field's name."""
    if isinstance(error, RequestRefused):
        return failure("invalid_request", str(error), error.field)
    return failure("server_error", str(error))


def _has_any(error: Unavailable, texts: Iterable[str]) -> bool:
    message = str(error)
    return any(text in message for text in texts)
