"""What the streaming door tells, read from its answers."""

import json
from dataclasses import dataclass, fields

import tritonclient.grpc

from wan_t2v_client.errors import ServerFault
from wan_t2v_client.generation import Generation, generation_from_answer


@dataclass(frozen=True)
class Progress:
    """What the server told after a step.

    Attributes:
        step, num_inference_steps: the `step`-th of so many.
        timestep, expert: where it was on the schedule, and who ran it.
        step_s: seconds it took on the server.
        left_s: the server's estimate of the seconds for the steps that are left.
        preview: a small PNG of what the clip is becoming, if it was asked for and this step has one.
    """

    step: int
    num_inference_steps: int
    timestep: int
    expert: str
    step_s: float
    left_s: float
    preview: bytes | None = None


_FACTS = {field.name for field in fields(Progress)}


def told_by(answer: tritonclient.grpc.InferResult) -> Progress | Generation:
    """A step's progress or, at the end, the generation. Raises ServerFault for a last answer that holds neither."""
    told = answer.as_numpy("progress")
    if told is not None:
        preview = answer.as_numpy("preview")
        facts = {
            name: value for name, value in json.loads(told[0]).items() if name in _FACTS
        }  # a newer server tells more
        return Progress(**facts, preview=None if preview is None else preview[0])
    if answer.as_numpy("metadata") is None:
        raise ServerFault("the server ended the stream without a video and without an error")
    return generation_from_answer(answer)
