"""A job's failure as callers see it."""

from typing import Any

from wan_t2v_client.errors import ClientError, RequestRefused


def failure(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """The `error` of a video."""
    return {"code": code, "message": message[:2000], **({"param": param} if param else {})}


def failure_of(error: ClientError) -> dict[str, Any]:
    """The same of what the server answered: a refusal names its field."""
    if isinstance(error, RequestRefused):
        return failure("invalid_request", str(error), error.field)
    return failure("server_error", str(error))
