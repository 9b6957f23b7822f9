"""A job's failure in the form that callers get."""

from typing import Any

from wan_t2v_client.errors import ClientError, RequestRefused


def failure(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Make the `error` of a video's document."""
    return {"code": code, "message": message[:2000], **({"param": param} if param else {})}


def failure_of(error: ClientError) -> dict[str, Any]:
    """Convert a client error to a video's `error`; for a rejected request it has the field's name."""
    if isinstance(error, RequestRefused):
        return failure("invalid_request", str(error), error.field)
    return failure("server_error", str(error))
