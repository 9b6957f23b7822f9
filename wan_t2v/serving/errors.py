"""Errors of serving: each class has its code in Triton and its outcome in the metrics. Standard library only."""

from typing import Any, ClassVar

from wan_t2v.cancellation import Cancelled
from wan_t2v.field_checks.invalid_field import InvalidField

FINISHED, CANCELLED, FAILED = "finished", "cancelled", "failed"
OVERLOADED, DEADLINE = "refused_overloaded", "refused_deadline"
DRAINING, INVALID = "refused_draining", "refused_invalid"
OUTCOMES = (FINISHED, CANCELLED, FAILED, OVERLOADED, DEADLINE, DRAINING, INVALID)


class ServingError(Exception):
    """An error whose message is meant for the caller.

    Attributes:
        triton_code: name of its code in `pb_utils.TritonError`.
        outcome: its label in `wan_t2v_generations_ended_total`, one of OUTCOMES.
        status: gRPC's name of its code, if Triton has no such code.
    """

    triton_code: ClassVar[str] = "INTERNAL"
    outcome: ClassVar[str] = FAILED
    status: ClassVar[str | None] = None


class ParameterError(ServingError, ValueError):
    """A parameter of a `config.pbtxt` that is missing or cannot be read; the message names it and what is accepted."""


class AdmissionError(ServingError):
    """The request is not admitted; a later retry may succeed.

    The gateway recognises Overloaded and Draining by their messages: gateway/wan_t2v_gateway/generation/failures.py.
    """

    triton_code = "UNAVAILABLE"


class Overloaded(AdmissionError):
    """No slot is free; the message has the counts. `retry_after_s` is the time until a retry in seconds, if known."""

    outcome = OVERLOADED

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OutOfTime(AdmissionError):
    """The deadline cannot be met, or has passed in the queue; the message has the figures."""

    outcome = DEADLINE
    status = "DEADLINE_EXCEEDED"


class Draining(AdmissionError):
    """The server takes no new work."""

    outcome = DRAINING

    def __init__(self) -> None:
        super().__init__(
            "the server is about to stop and takes no new work; try again, at another server if there is one"
        )


class AlreadyRunning(ServingError):
    """Another request of the same caller with the same key is running; the message says what to do."""

    triton_code = "ALREADY_EXISTS"
    outcome = INVALID


class KeyOfAnotherRequest(ServingError):
    """The key was used for a request with other fields; the message names the remedy."""

    triton_code = "INVALID_ARG"
    outcome = INVALID


class NoRoomForAnswer(ServingError):
    """The answer with a video did not fit into /dev/shm, nor would it at a second try: regions never shrink."""

    def __init__(self, *, needed_bytes: int, free_bytes: int, reason: BaseException) -> None:
        super().__init__(
            f"the answer of {needed_bytes / 1e6:.0f} MB found no room in the server's /dev/shm, of which "
            f"{free_bytes / 1e6:.0f} MB are free: make it larger (--shm-size, or the chart's resources.shmGib), or ask "
            f"for less, such as mp4 instead of frames ({reason})"
        )


class ModelCallError(ServingError):
    """A called model failed; the message names the model. `code` is a code of `TritonError`, for our own response."""

    def __init__(self, model: str, message: str, code: Any) -> None:
        super().__init__(f"{model}: {message}")
        self.code = code


class InvalidFieldUpstream(ModelCallError):
    """A called model refused a field of the caller's own request; the message is the model's, which names it."""

    triton_code = "INVALID_ARG"
    outcome = INVALID

    def __init__(self, model: str, message: str, code: Any, *, field: str) -> None:
        super().__init__(model, message, code)
        self.args = (message,)
        self.field = field


class MissingOutput(ModelCallError):
    """A called model answered without an error but also without a requested output."""

    triton_code = "UNAVAILABLE"


# Errors of the pipeline's steps, which do not know Triton.
_OF_STEPS: tuple[tuple[type[Exception], str, str], ...] = (
    (InvalidField, "INVALID_ARG", INVALID),
    (Cancelled, "CANCELLED", CANCELLED),
)


def triton_code(error: BaseException) -> str | None:
    """Return the name of an error's code in `TritonError`; None if its message is not meant for the caller."""
    if isinstance(error, ServingError):
        return error.triton_code
    return next((code for kind, code, _ in _OF_STEPS if isinstance(error, kind)), None)


def error_field(error: BaseException) -> str | None:
    """Return the field of the request that the caller must change, if the error names one."""
    return error.field if isinstance(error, InvalidField | InvalidFieldUpstream) else None


def outcome(error: BaseException | None) -> str:
    """Return the outcome of a request that ended in `error`; None stands for success."""
    if error is None:
        return FINISHED
    if isinstance(error, ServingError):
        return error.outcome
    return next((ends_as for kind, _, ends_as in _OF_STEPS if isinstance(error, kind)), FAILED)
