"""Responses to requests: every failure becomes an error with its code, and none ends the batch."""

import re
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from wan_t2v.serving.errors import ModelCallError, triton_code

# `TritonError`'s codes by gRPC's names of them.
_STATUS = {
    "INVALID_ARG": "INVALID_ARGUMENT",
    "UNSUPPORTED": "UNIMPLEMENTED",
    **{same: same for same in ("UNAVAILABLE", "INTERNAL", "CANCELLED", "ALREADY_EXISTS", "NOT_FOUND")},
}

# Triton's Python backend names shared memory in its errors, such as that of a full /dev/shm; with the operator's key
# other callers' requests can be read there. Names as they are by default, and as the embedded server makes them.
_REGION = re.compile(r"/?(?:triton_python_backend_shm_region_|wan_t2v_\d+_)[\w-]+")


def respond_to_all(pb_utils: Any, requests: Sequence[Any], answer: Callable[[Any], list[Any]]) -> list[Any]:
    """Answer each request by `answer(request) -> output tensors`.

    The caller's fault is INVALID_ARG with its reason; a called model's fault keeps its code; ours is logged with its
    traceback and answered by one line.
    """
    return [_respond(pb_utils, request, answer) for request in requests]


def _respond(pb_utils: Any, request: Any, answer: Callable[[Any], list[Any]]) -> Any:
    try:
        return pb_utils.InferenceResponse(output_tensors=answer(request))
    except Exception as error:
        return error_response(pb_utils, error)


def error_response(pb_utils: Any, error: BaseException) -> Any:
    """The response to a request that ended in `error`."""
    message, code = _safe_message(pb_utils, error)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def streamed_error_response(pb_utils: Any, error: BaseException) -> Any:
    """The same in a stream, where Triton sends the message alone: it begins with the code's name in gRPC.

    Triton's header `triton_grpc_error` would send the code as such. It is not relied on: a caller who leaves at once
    after such an error ended tritonserver 2.51 (signal 11 in `ModelStreamInferHandler::Process`).
    """
    message, code = _safe_message(pb_utils, error)
    named = (status for name, status in _STATUS.items() if getattr(pb_utils.TritonError, name) == code)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{next(named, 'UNKNOWN')}: {message}", code))


def _safe_message(pb_utils: Any, error: BaseException) -> tuple[str, Any]:
    """What to say of an error, without names of shared memory, and its code."""
    message, code = _message_and_code(pb_utils, error)
    return _REGION.sub("(a region)", message), code


def _message_and_code(pb_utils: Any, error: BaseException) -> tuple[str, Any]:
    """An error's own words, and its code; the traceback of one that is ours goes to the log."""
    if isinstance(error, ModelCallError):
        return str(error), error.code
    name = triton_code(error)
    if name is not None:
        return str(error), getattr(pb_utils.TritonError, name)
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    return f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL
