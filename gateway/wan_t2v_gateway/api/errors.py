"""Every error in the Videos API's format: `{"error": {"message", "type", "param", "code"}}`."""

import logging
from collections.abc import Mapping

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from wan_t2v_gateway.database.call_limit import DatabaseUnavailable
from wan_t2v_gateway.database.creation import KeyOfAnotherBody
from wan_t2v_gateway.database.usage import TooManyJobs
from wan_t2v_gateway.storage.store import StorageUnavailable

_log = logging.getLogger(__name__)


class ApiError(Exception):
    """An error response with an HTTP status; `param` names the parameter that is wrong."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.headers = status, param, dict(headers or {})


class InvalidField(ApiError):
    """A field that cannot be served; the message has the received value and what is accepted."""

    def __init__(self, param: str, came: object, accepted: str) -> None:
        shown = repr(came)
        shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
        super().__init__(400, f"{param}: got {shown}; accepted: {accepted}", param=param)


_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def sendable(text: str) -> str:
    """Escape what UTF-8 cannot encode: an error may quote a caller's text with half a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def error_response(
    status: int, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Make an error response in the Videos API's format."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    named = None if param is None else sendable(param)
    body = {"error": {"message": sendable(message), "type": kind, "param": named, "code": None}}
    return JSONResponse(body, status, dict(headers or {}))


def add_error_handlers(app: FastAPI) -> None:
    """Answer every exception with a JSON error that reveals nothing of the code."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return error_response(error.status, str(error), param=error.param, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = str(first["loc"][-1])
        return error_response(400, f"{param}: {first['msg']}", param=param)

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> JSONResponse:
        """No one reads this response, but a disconnect within a body must not count as a failure of the gateway."""
        return error_response(400, "the caller left before the end of the body")

    @app.exception_handler(DatabaseUnavailable)
    @app.exception_handler(StorageUnavailable)
    async def unavailable(request: Request, error: Exception) -> JSONResponse:
        return error_response(503, str(error), headers={"retry-after": "2"})

    @app.exception_handler(psycopg.DataError)
    @app.exception_handler(UnicodeEncodeError)
    async def unkept_text(request: Request, error: Exception) -> JSONResponse:
        """Postgres can store neither U+0000 nor half a surrogate pair, which JSON and URLs may contain."""
        return error_response(400, "a text cannot be kept: it holds U+0000 or half a surrogate pair")

    @app.exception_handler(KeyOfAnotherBody)
    async def other_body(request: Request, error: KeyOfAnotherBody) -> JSONResponse:
        return error_response(409, str(error), param="Idempotency-Key", headers={"x-should-retry": "false"})

    @app.exception_handler(TooManyJobs)
    async def too_many(request: Request, error: TooManyJobs) -> JSONResponse:
        return error_response(429, str(error), headers={"retry-after": str(error.retry_after_s)})

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(500, "the gateway failed; its log has the reason")
