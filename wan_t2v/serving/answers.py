"""From a request to its response: every failure becomes an error with the right code, none ends the batch."""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

from wan_t2v.cancellation import Cancelled
from wan_t2v.request import RequestError
from wan_t2v.serving.remote import ModelCallError


def answered(pb_utils: Any, requests: Sequence[Any], answer: Callable[[Any], list[Any]]) -> list[Any]:
    """Answer each request by `answer(request) -> output tensors`.

    The caller's fault is INVALID_ARG with its reason; a called model's fault keeps its code; ours is logged with its
    traceback and answered by one line.
    """
    return [_answered(pb_utils, request, answer) for request in requests]


def _answered(pb_utils: Any, request: Any, answer: Callable[[Any], list[Any]]) -> Any:
    codes = pb_utils.TritonError
    try:
        return pb_utils.InferenceResponse(output_tensors=answer(request))
    except RequestError as error:
        return _refusal(pb_utils, str(error), codes.INVALID_ARG)
    except ModelCallError as error:
        return _refusal(pb_utils, str(error), error.code)
    except Cancelled as error:
        return _refusal(pb_utils, str(error), codes.CANCELLED)
    except Exception as error:
        pb_utils.Logger.log_error(traceback.format_exc())
        return _refusal(pb_utils, f"{type(error).__name__}: {error}", codes.INTERNAL)


def _refusal(pb_utils: Any, message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
