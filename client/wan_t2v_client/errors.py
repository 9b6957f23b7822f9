"""What can go wrong, by what the caller can do about it."""

from tritonclient.utils import InferenceServerException


class ClientError(Exception):
    """A call that did not succeed. `exit_code` is what the command ends with."""

    exit_code = 5


class RequestRefused(ClientError):
    """The request cannot be served as it is; the message names the field and what is accepted. Do not repeat it."""

    exit_code = 2


class Unavailable(ClientError):
    """The server cannot be reached, or cannot take the request at the moment. Try again."""

    exit_code = 3


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


def client_error(error: InferenceServerException) -> ClientError:
    """The error of this module that says the same, in one line and without Triton's prefixes."""
    status = str(error.status() or "")
    message = " ".join((error.message() or str(error)).split())
    message = message.removeprefix("in ensemble 'text_to_video', ")
    if any(text in message for text in _PASSING):
        return Unavailable(message)
    return _BY_STATUS.get(status, ServerFault)(message)
