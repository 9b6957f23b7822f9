"""What a caller of the streaming endpoint is told while there is nothing new, and that nothing follows the end."""

import json
from typing import Any

from tests.fakes.pb_utils import FakePbUtils
from wan_t2v.progress import Progress
from wan_t2v.serving.models.stream_responses import DECODE, DENOISE, HEARTBEAT_S, LOAD, ResponseStream

STEP = Progress(step=1, num_inference_steps=4, timestep=999, expert="low_noise_expert", step_s=0.1, left_s=0.3)


class Told:
    """A response sender that keeps the texts, and a clock that the test turns."""

    def __init__(self) -> None:
        self.seconds, self.texts, self.ended = 100.0, [], 0
        self.responses = ResponseStream(FakePbUtils(), self, ahead=lambda: 3, now=lambda: self.seconds)

    def send(self, response: Any, flags: int = 0) -> None:
        self.texts += [(tensor.name(), tensor.as_numpy()[0]) for tensor in response.output_tensors()]
        self.ended += flags

    def beats(self) -> list[dict[str, Any]]:
        return [json.loads(text) for name, text in self.texts if name == "heartbeat"]


def test_the_first_beat_comes_at_once_and_tells_the_place_in_the_queue() -> None:
    told = Told()
    told.responses.heartbeat()
    assert told.beats() == [{"stage": "queue", "stage_s": 0.0, "ahead": 3}]


def test_the_heart_beats_only_where_nothing_else_was_told() -> None:
    told = Told()
    told.responses.send_step(STEP, None)
    told.seconds += HEARTBEAT_S - 0.1
    told.responses.heartbeat()
    assert told.beats() == []
    told.responses.enter_stage(DECODE)
    told.seconds += 0.2
    told.responses.heartbeat()
    told.responses.heartbeat()
    assert told.beats() == [{"stage": "decode", "stage_s": 0.2}]


def test_after_a_load_the_stage_before_it_goes_on() -> None:
    told = Told()
    told.responses.enter_stage(DENOISE)
    told.seconds += 10
    with told.responses.within_stage(LOAD):
        told.seconds += 7
        told.responses.heartbeat()
        told.seconds += 7
    told.responses.heartbeat()
    assert told.beats() == [{"stage": "load", "stage_s": 7.0}, {"stage": "denoise", "stage_s": 24.0}]


def test_a_preview_goes_with_its_step() -> None:
    told = Told()
    told.responses.send_step(STEP, b"a PNG")
    assert [name for name, _ in told.texts] == ["progress", "preview"]


def test_nothing_follows_the_end() -> None:
    told = Told()
    told.responses.send_end(None, [])
    told.seconds += 10 * HEARTBEAT_S
    told.responses.heartbeat()
    assert told.ended == 1 and told.texts == []
