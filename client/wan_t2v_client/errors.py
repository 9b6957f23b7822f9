"""The client's errors, one class per way to handle them."""

import re
from typing import Any

from tritonclient.utils import InferenceServerException

from wan_t2v_client.error_tail import ErrorTail, split_tail


class ClientError(Exception):
    """A call that did not succeed. `exit_code` is the exit code of the command."""

    exit_code = 5


class RequestRefused(ClientError):
    """The request cannot be served as it is; the message says why and what is accepted. Do not repeat it.

    `field` is the server's name of the field to change; None if the server named none.
    """

    exit_code = 2

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class WrongEndpoint(RequestRefused):
    """What answers at the address is no gRPC endpoint, or its certificate does not verify: no request can be served."""


class Unavailable(ClientError):
    """The server cannot be reached, or cannot take the request at the moment. Try again.

    `retry_after_s` is the server's estimate of the seconds until a retry can succeed; None if it gave none.
    """

    exit_code = 3

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServerSilent(Unavailable):
    """The server sent nothing for too long, see `wan_t2v_client.watchdog`; the request was cancelled."""


class AlreadyRunning(Unavailable):
    """A request with the same `idempotency_key` is running; a retry gets its result."""


class DeadlineExceeded(ClientError):
    """The deadline passed before the response came, or the server estimated that it would and rejected the request."""

    exit_code = 4


class ServerFault(ClientError):
    """The server failed; its log has the reason."""


class EndedByServer(Exception):
    """Used inside the client only: the server ended a stream with this error, so there is nothing left to cancel."""

    def __init__(self, error: ClientError) -> None:
        super().__init__(str(error))
        self.error = error


_BY_STATUS: dict[str, type[ClientError]] = {
    "StatusCode.INVALID_ARGUMENT": RequestRefused,
    "StatusCode.UNAUTHENTICATED": RequestRefused,
    "StatusCode.PERMISSION_DENIED": RequestRefused,
    "StatusCode.NOT_FOUND": Unavailable,
    "StatusCode.UNAVAILABLE": Unavailable,
    "StatusCode.ALREADY_EXISTS": AlreadyRunning,
    "StatusCode.DEADLINE_EXCEEDED": DeadlineExceeded,
}
# Triton reports these as INTERNAL although they are temporary.
DEAD_PROCESS = ("is not healthy", "the health mutex")  # a model's process died, perhaps while it held the mutex
TAKES_NO_REQUEST = ("Server not ready", "stopped accepting new", "Exceeds maximum queue size")
_PASSING = (*DEAD_PROCESS, *TAKES_NO_REQUEST, "is not ready")
_UNLOADED = "Request for unknown model"  # also while it is being reloaded; in a stream it has no code
# Triton's own messages for a request that it rejects before any model; in a stream they have no code.
_TRITON_REFUSES = re.compile(
    r"unexpected inference input|unexpected shape for input|data-type is|inference input data-type|unexpected datatype"
    r"|expected \d+ (inputs|string elements)|but expected \d+|inputs? .* shape .* does not match|non-empty shape"
)


def client_error(error: InferenceServerException) -> ClientError:
    """Convert Triton's error to one of this module, with a message of one line and without Triton's prefixes."""
    message = " ".join((error.message() or str(error)).split())
    message, tail = split_tail(message.removeprefix("in ensemble 'text_to_video', "))
    kind = _kind(tail, str(error.status() or ""), message)
    if issubclass(kind, Unavailable):
        return kind(message, retry_after_s=tail.retry_after_s if tail else None)
    if kind is RequestRefused:
        return RequestRefused(message, field=tail.field if tail else None)
    return kind(message)


def _kind(tail: ErrorTail | None, status: str, message: str) -> type[ClientError]:
    """Choose the error class by the server's own code, or else by text and status.

    The text may hold words of the caller's, so it never wins over the server's code; INTERNAL is none, since the server
    passes Triton's errors on with it. In a stream, Triton's own messages have no status.
    """
    if tail is not None:
        status = f"StatusCode.{tail.status}"
        if status in _BY_STATUS:
            return _BY_STATUS[status]
    if any(text in message for text in (*_PASSING, _UNLOADED)):
        return Unavailable
    if status:
        return _BY_STATUS.get(status, ServerFault)
    return RequestRefused if _TRITON_REFUSES.search(message) else ServerFault


def client_error_from_rpc(error: Any) -> ClientError:
    """Convert a gRPC error likewise."""
    return client_error(InferenceServerException(msg=error.details() or "", status=str(error.code())))


def client_closed() -> RequestRefused:
    """Make the error of a call through a closed client."""
    return RequestRefused("the client is closed")
