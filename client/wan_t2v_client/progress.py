"""The streaming endpoint's messages: progress, heartbeats, and finally the generation or the limits."""

import json
from dataclasses import dataclass, fields
from typing import Any

from tritonclient.grpc import InferResult
from tritonclient.utils import InferenceServerException

from wan_t2v_client.errors import EndedByServer, ServerFault, client_error
from wan_t2v_client.generation import UNREADABLE, Generation, generation_from_answer, unreadable
from wan_t2v_client.limits import Limits, limits_from_answer


@dataclass(frozen=True)
class Progress:
    """Step progress: index, expert, seconds, estimated time left.

    Attributes:
        step, num_inference_steps: index of the step, from 1, and number of steps.
        timestep, expert: timestep of the step, and the expert that ran it.
        step_s: seconds that the step took on the server.
        left_s: the server's estimate of the seconds for the remaining steps.
        reused: whether the step reused an earlier step's result, so that no expert ran.
        preview: a small PNG of the predicted clip, if requested and due at this step; in base64 if the request's
            `video_encoding` is.
    """

    step: int
    num_inference_steps: int
    timestep: float
    expert: str
    step_s: float
    left_s: float
    preview: bytes | None = None
    reused: bool = False


@dataclass(frozen=True)
class Heartbeat:
    """A heartbeat with the request's current stage.

    Attributes:
        stage: `queue`, `prepare`, `denoise`, `load` (of an expert, if only one is in memory), `decode` or `encode`.
        stage_s: seconds that the request has been in this stage.
        ahead: number of generations that go first, in the stage `queue`; else None.
    """

    stage: str
    stage_s: float
    ahead: int | None = None


Message = Progress | Heartbeat | Generation | Limits
LAST = (Generation, Limits)


def message_of_stream(response: Any) -> Message:
    """Parse one response of the stream. Raises EndedByServer for an error, and for one that cannot be parsed."""
    if response.error_message:
        raise EndedByServer(client_error(InferenceServerException(msg=response.error_message)))
    try:
        return read_message(InferResult(response.infer_response))
    except ServerFault as fault:
        raise EndedByServer(fault) from None


def read_message(answer: InferResult) -> Message:
    """Parse one message: a step's progress, a heartbeat or, at the end, the generation or the limits.

    Raises ServerFault for a final response with none of them, and for one that cannot be parsed.
    """
    try:
        message = _read_running(answer)
    except UNREADABLE as error:
        raise unreadable(error) from None
    if message is not None:
        return message
    if answer.as_numpy("limits") is not None:
        return limits_from_answer(answer)
    if answer.as_numpy("metadata") is None:
        raise ended_without_word()
    return generation_from_answer(answer)


def ended_without_word() -> ServerFault:
    """Make the error of a stream that ended without a last message."""
    return ServerFault("the server ended the stream without a video and without an error")


def _read_running(answer: InferResult) -> Progress | Heartbeat | None:
    text = answer.as_numpy("progress")
    if text is not None:
        preview = answer.as_numpy("preview")
        return Progress(**_known(Progress, text[0]), preview=None if preview is None else preview[0])
    text = answer.as_numpy("heartbeat")
    return None if text is None else Heartbeat(**_known(Heartbeat, text[0]))


def _known(kind: type[Progress] | type[Heartbeat], text: bytes) -> dict[str, Any]:
    """Return the fields that this client knows; a newer server may send more."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in json.loads(text).items() if name in names}
