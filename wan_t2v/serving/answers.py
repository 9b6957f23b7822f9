"""From a request to its response: every failure becomes an error with the right code, none ends the batch."""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

from wan_t2v.cancellation import Cancelled
from wan_t2v.request import RequestError
from wan_t2v.serving.admission import Refused
from wan_t2v.serving.keys import AlreadyRunning, KeyOfAnotherRequest
from wan_t2v.serving.remote import ModelCallError


def answered(pb_utils: Any, requests: Sequence[Any], answer: Callable[[Any], list[Any]]) -> list[Any]:
    """Answer each request by `answer(request) -> output tensors`.

    The caller's fault is INVALID_ARG with its reason; a called model's fault keeps its code; ours is logged with its
    traceback and answered by one line.
    """
    return [_answered(pb_utils, request, answer) for request in requests]


def _answered(pb_utils: Any, request: Any, answer: Callable[[Any], list[Any]]) -> Any:
    try:
        return pb_utils.InferenceResponse(output_tensors=answer(request))
    except Exception as error:
        return failure(pb_utils, error)


def failure(pb_utils: Any, error: BaseException) -> Any:
    """The response to a request that ended in `error`."""
    codes = pb_utils.TritonError
    if isinstance(error, RequestError):
        return _refusal(pb_utils, str(error), codes.INVALID_ARG)
    if isinstance(error, ModelCallError):
        return _refusal(pb_utils, str(error), error.code)
    if isinstance(error, KeyOfAnotherRequest):
        return _refusal(pb_utils, str(error), codes.INVALID_ARG)
    if isinstance(error, AlreadyRunning):
        return _refusal(pb_utils, str(error), codes.ALREADY_EXISTS)
    if isinstance(error, Refused):
        return _refusal(pb_utils, str(error), codes.UNAVAILABLE)
    if isinstance(error, Cancelled):
        return _refusal(pb_utils, str(error), codes.CANCELLED)
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    return _refusal(pb_utils, f"{type(error).__name__}: {error}", codes.INTERNAL)


def _refusal(pb_utils: Any, message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
