"""What can go wrong, by what the caller can do about it."""

import re
from typing import Any

from tritonclient.utils import InferenceServerException


class ClientError(Exception):
    """A call that did not succeed. `exit_code` is what the command ends with."""

    exit_code = 5


class RequestRefused(ClientError):
    """The request cannot be served as it is; the message names the field and what is accepted. Do not repeat it."""

    exit_code = 2


class Unavailable(ClientError):
    """The server cannot be reached, or cannot take the request at the moment. Try again.

    `retry_after_s` is the server's own estimate of when, None if it gave none.
    """

    exit_code = 3

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ClientError):
    """The deadline passed before the answer came."""

    exit_code = 4


class ServerFault(ClientError):
    """The server failed at its task; its log has the reason."""


_BY_STATUS: dict[str, type[ClientError]] = {
    "StatusCode.INVALID_ARGUMENT": RequestRefused,
    "StatusCode.UNAUTHENTICATED": RequestRefused,
    "StatusCode.PERMISSION_DENIED": RequestRefused,
    "StatusCode.NOT_FOUND": Unavailable,
    "StatusCode.UNAVAILABLE": Unavailable,
    "StatusCode.DEADLINE_EXCEEDED": DeadlineExceeded,
}
# Triton calls these INTERNAL, yet they pass: a model's process died and is being started again.
_PASSING = ("is not healthy", "is not ready", "Server not ready")
_UNLOADED = "Request for unknown model"  # as while it is loaded again; a stream tells this without a code
_HINT = re.compile(r"try again later, in about (\d+(?:\.\d+)?) s\b")  # as wan_t2v/serving/admission.py words it


def client_error(error: InferenceServerException) -> ClientError:
    """The error of this module that says the same, in one line and without Triton's prefixes."""
    status = str(error.status() or "")
    message = " ".join((error.message() or str(error)).split())
    message = message.removeprefix("in ensemble 'text_to_video', ")
    passes = any(text in message for text in (*_PASSING, _UNLOADED))
    kind = Unavailable if passes else _BY_STATUS.get(status, ServerFault)
    if kind is Unavailable:
        hint = _HINT.search(message)
        return Unavailable(message, retry_after_s=float(hint[1]) if hint else None)
    return kind(message)


def client_error_from_rpc(error: Any) -> ClientError:
    """The same for a gRPC error as it is: tritonclient's asyncio stream raises these."""
    return client_error(InferenceServerException(msg=error.details() or "", status=str(error.code())))
