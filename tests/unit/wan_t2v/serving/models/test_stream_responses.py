"""What a caller of the streaming endpoint is told while there is nothing new, and that nothing follows the end."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.fakes.pb_utils import FakePbUtils, FakeTensor
from wan_t2v.progress import Progress
from wan_t2v.serving.errors import NoRoomForAnswer
from wan_t2v.serving.models.stream_responses import DECODE, DENOISE, HEARTBEAT_S, LOAD, ROOM_BYTES, ResponseStream
from wan_t2v.serving.python_backend.tensors import text_to_triton

STEP = Progress(step=1, num_inference_steps=4, timestep=999, expert="low_noise_expert", step_s=0.1, left_s=0.3)


class Told:
    """A response sender that keeps the texts, a clock that the test turns, and a /dev/shm with room for `free` bytes.

    Like Triton's it is closed by a final response before it finds that there is no room for it.
    """

    def __init__(self, *, free: int = 10 * ROOM_BYTES) -> None:
        self.seconds, self.free, self.ended = 100.0, free, 0
        self.texts: list[tuple[str, bytes]] = []
        self.errors: list[str] = []
        self.responses = ResponseStream(
            FakePbUtils(), self, ahead=lambda: 3, now=lambda: self.seconds, free=lambda: self.free
        )

    def send(self, response: Any = None, flags: int = 0) -> None:
        assert not self.ended
        self.ended += flags
        texts = [] if response is None else [(t.name(), t.as_numpy()[0]) for t in response.output_tensors()]
        if sum(len(text) for _, text in texts) > self.free:
            raise FakePbUtils.TritonModelException("No space left on device")
        self.texts += texts
        self.errors += [response.error().message()] if response is not None and response.has_error() else []

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


def video(length: int) -> Sequence[FakeTensor]:
    return [text_to_triton(FakePbUtils(), "video", b"x" * length)]


def test_with_room_the_video_is_the_final_response() -> None:
    told = Told()
    left = told.responses.send_ahead(video(100))
    assert told.texts == []
    told.responses.send_end(None, left)
    assert told.texts == [("video", b"x" * 100)] and told.ended == 1


def test_with_little_room_the_video_comes_before_the_end_and_no_heartbeat_follows_it() -> None:
    told = Told(free=ROOM_BYTES + 99)
    left = told.responses.send_ahead(video(100))
    told.seconds += 10 * HEARTBEAT_S
    told.responses.heartbeat()
    assert told.texts == [("video", b"x" * 100)] and told.ended == 0
    told.responses.send_end(None, left)
    assert told.texts == [("video", b"x" * 100)] and told.ended == 1


def test_where_the_video_has_no_room_its_caller_gets_an_error() -> None:
    told = Told(free=99)
    with pytest.raises(NoRoomForAnswer) as fault:
        told.responses.send_ahead(video(100))
    told.responses.send_end(fault.value)
    assert told.texts == [] and told.ended == 1
    assert "no room in the server's /dev/shm" in told.errors[0] and "No space left on device" in told.errors[0]
