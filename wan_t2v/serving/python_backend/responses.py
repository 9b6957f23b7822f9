"""Responses to requests: every failure becomes an error with its code, and does not affect the rest of the batch."""

import re
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from wan_t2v.operate.gpu_fault import is_gpu_fault
from wan_t2v.serving.error_tail import STATUS_OF_CODE, ErrorTail
from wan_t2v.serving.errors import ModelCallError, ServingError, error_field, triton_code
from wan_t2v.serving.python_backend.run import report_gpu_fault

# Errors of Triton's Python backend, such as that of a full /dev/shm, name shared memory regions. With the operator's
# key, other callers' requests can be read there. These are the default names, the embedded server's and the chart's.
_REGION = re.compile(r"/?(?:triton_python_backend_shm_region_|wan_t2v_(?:\d+|pod)_)[\w-]+")


def respond_to_all(pb_utils: Any, requests: Sequence[Any], answer: Callable[[Any], list[Any]]) -> list[Any]:
    """Answer each request by `answer(request) -> output tensors`.

    An invalid request gives INVALID_ARG with the reason. A called model's error keeps its code. Any other exception is
    logged with its traceback, and the response has one line of it.
    """
    return [_respond(pb_utils, request, answer) for request in requests]


def _respond(pb_utils: Any, request: Any, answer: Callable[[Any], list[Any]]) -> Any:
    try:
        return pb_utils.InferenceResponse(output_tensors=answer(request))
    except Exception as error:
        return error_response(pb_utils, error)


def error_response(pb_utils: Any, error: BaseException) -> Any:
    """Make the response to a request that ended in `error`."""
    message, code = _message_and_code(pb_utils, error)
    message = f"{_REGION.sub('(a region)', message)}{_tail(pb_utils, error, code)}"
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _tail(pb_utils: Any, error: BaseException, code: Any) -> ErrorTail:
    """Make the machine-readable tail of the message.

    In a stream Triton sends the message without its code. The header `triton_grpc_error` would add the code, but is
    not used: a caller who disconnects right after such an error crashed tritonserver 2.51 (signal 11 in
    `ModelStreamInferHandler::Process`).
    """
    names = (status for name, status in STATUS_OF_CODE.items() if getattr(pb_utils.TritonError, name) == code)
    status = next(names, "UNKNOWN")
    if isinstance(error, ServingError) and error.status is not None:
        status = error.status
    return ErrorTail(status, error_field(error), getattr(error, "retry_after_s", None))


def _message_and_code(pb_utils: Any, error: BaseException) -> tuple[str, Any]:
    """Return an error's message and Triton code; the traceback of an unexpected exception goes to the log."""
    if isinstance(error, ModelCallError):
        return str(error), error.code
    name = triton_code(error)
    if name is not None:
        return str(error), getattr(pb_utils.TritonError, name)
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, RuntimeError) and is_gpu_fault(message):  # of torch or of a plan
        return report_gpu_fault(message), pb_utils.TritonError.UNAVAILABLE
    return message, pb_utils.TritonError.INTERNAL
