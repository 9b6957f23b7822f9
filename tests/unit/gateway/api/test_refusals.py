"""Every kind of bad call that `make fuzz` knows, and what of it has a home of its own: refused here, unseen behind."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pytest
from wan_t2v_client import Limits
from wan_t2v_gateway.api.errors import InvalidField
from wan_t2v_gateway.api.fields import video_request

from tests.fakes.published_limits import published
from tests.stress.fuzz.gateway import bad_bodies, bad_calls, bad_forms
from tests.stress.fuzz.gateway.calls import Draw, fault_of, send
from tests.unit.gateway.stepwise import StepwiseServer, serving_stepwise
from wan_t2v import request
from wan_t2v.field_checks.ranges import RANGES
from wan_t2v.field_checks.texts import MAX_PROMPT_BYTES
from wan_t2v.shapes import VideoShape
from wan_t2v.step_profiles.profile import LEAST_STEPS

Start = Callable[..., Any]
LARGEST = Limits.parse(published())


def made(gateway: Any, server: StepwiseServer) -> str:
    """The id of a video that is there."""
    video_id: str = gateway.post(size="64x64")
    server.finish()
    gateway.until(video_id, "completed")
    return video_id


def faults(url: str, classes: dict[str, Draw], times: int) -> list[str]:
    """Call each kind so often; what was wrong about the answers."""
    wrong = []
    for name, draw in classes.items():
        for number in range(times):
            call = draw(np.random.default_rng((1, number)))
            fault = fault_of(call, send(url, call))
            wrong += [f"{name}, number {number}: {fault}"] if fault else []
    return wrong


def test_every_kind_of_bad_call_is_refused_and_nothing_behind_sees_it(start: Start, database_url: str) -> None:
    with serving_stepwise() as server:
        gateway = start(server_url=server.url)
        assert gateway.http.get("/v1/models").json()["data"][0]["limits"]["largest_size"] == "256x256"
        done = made(gateway, server)
        bodies = {**bad_bodies.TRANSLATED, **bad_bodies.FIELDS, **bad_forms.CLASSES}
        assert faults(gateway.url, {**bodies, **bad_calls.classes(done)}, times=3) == []
        assert len(server.requests) == 1
        made(gateway, server)
    with psycopg.connect(database_url) as database:
        assert database.execute("SELECT count(*) FROM videos").fetchone() == (2,)


def test_a_stranger_with_a_key_gets_nothing_of_anothers(start: Start, database_url: str) -> None:
    import asyncio

    from wan_t2v_gateway.database.owners import make_key
    from wan_t2v_gateway.database.pool import Database

    async def key() -> str:
        async with Database(database_url) as database:
            return await make_key(database, "mine")

    with serving_stepwise() as server:
        gateway = start(server_url=server.url)
        done = made(gateway, server)
        strangers = bad_calls.classes_of_strangers(done, asyncio.run(key()))
        assert faults(gateway.url, strangers, times=8) == []
        assert len(server.requests) == 1


@pytest.mark.parametrize("form", bad_bodies.FORMS)
def test_a_right_request_is_taken_in_every_form(start: Start, form: str) -> None:
    """Else all of the above would say nothing."""
    gateway = start(workers=0)
    answer = send(gateway.url, bad_bodies.written(bad_bodies.good(seconds="0.5", num_frames=None), form))
    assert answer.status == 200, answer.text
    assert json.loads(answer.text)["settings"] | {"height": 32, "num_frames": 9} == json.loads(answer.text)["settings"]


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ("num_inference_steps", RANGES["num_inference_steps"].maximum, 1001),
        ("fps", RANGES["fps"].maximum, 121),
        ("flow_shift", RANGES["flow_shift"].maximum, 100.5),
        ("flow_shift", RANGES["flow_shift"].minimum, 1e-44),
        ("seed", RANGES["seed"].maximum, -1),
        ("guidance_scale", 0.0, -0.1),
        ("guidance_scale_2", 0.0, -0.1),
        ("guidance_scale", RANGES["guidance_scale"].maximum, 1e38),
        ("guidance_scale_2", RANGES["guidance_scale_2"].maximum, 100.5),
        *(("solver", solver, f"{solver}x") for solver in request.SOLVERS),
        ("step_cache", 1.0, 1.01),
        ("guidance_skip", 1.0, -0.01),
        ("negative_prompt", "x" * MAX_PROMPT_BYTES, "x" * (MAX_PROMPT_BYTES + 1)),
    ],
)
def test_the_gateways_limits_are_those_of_the_server(field: str, right: Any, wrong: Any) -> None:
    assert video_request({"prompt": "x", field: right}, LARGEST).fields[field] == right
    with pytest.raises(InvalidField) as refused:
        video_request({"prompt": "x", field: wrong}, LARGEST)
    assert refused.value.param == field


@pytest.mark.parametrize("field", request.RAW_PROFILE_FIELDS)
def test_steps_are_left_out_of_many_alone(field: str) -> None:
    enough: dict[str, Any] = {"prompt": "x", field: 0.5, "num_inference_steps": LEAST_STEPS}
    assert video_request(enough, LARGEST).fields[field] == 0.5
    with pytest.raises(InvalidField, match=f"{field}: got 0.5; accepted: 0, or at least {LEAST_STEPS} num_inf"):
        video_request({**enough, "num_inference_steps": LEAST_STEPS - 1}, LARGEST)


def test_a_clip_is_served_as_a_whole_or_not_at_all() -> None:
    """The width of one and the height of another make none."""
    served = Limits.parse(published(VideoShape(81, 480, 832), VideoShape(41, 832, 480)))
    assert video_request({"prompt": "x", "size": "480x832", "num_frames": 41}, served).fields["width"] == 480
    for fields in ({"size": "480x480"}, {"size": "480x832", "num_frames": 81}):
        with pytest.raises(InvalidField, match="accepted: 832x480 with 81 frames, 480x832 with 41 frames"):
            video_request({"prompt": "x", **fields}, served)


def test_a_length_becomes_the_nearest_frames_that_are_served() -> None:
    document = published()
    document["fields"]["num_frames"] |= {"minimum": 2, "step": 8}
    assert video_request({"prompt": "x", "seconds": 1}, Limits.parse(document)).fields["num_frames"] == 18
    assert video_request({"prompt": "x", "seconds": 1}, LARGEST).fields["num_frames"] == 17


def test_a_profile_and_a_field_that_the_server_does_not_have_are_refused() -> None:
    assert video_request({"prompt": "x", "step_profile": "fast"}, LARGEST).fields["step_profile"] == "fast"
    with pytest.raises(InvalidField, match="step_profile: got 'slow'; accepted: exact or fast"):
        video_request({"prompt": "x", "step_profile": "slow"}, LARGEST)
    with pytest.raises(InvalidField, match="step_profile: got 'fast'; accepted: exact, or at least 16 num_inf"):
        video_request({"prompt": "x", "step_profile": "fast", "num_inference_steps": 15}, LARGEST)
    document = published()
    del document["fields"]["guidance_skip"]
    with pytest.raises(InvalidField, match="the server behind does not know this field"):
        video_request({"prompt": "x", "guidance_skip": 0.5}, Limits.parse(document))


def test_work_that_the_server_would_refuse_is_refused_here() -> None:
    most: dict[str, Any] = {"prompt": "x", "size": "256x256", "num_frames": 81, "num_inference_steps": 93}
    assert video_request(most, LARGEST).fields["num_inference_steps"] == 93
    with pytest.raises(InvalidField, match="accepted: at most 1000000 tokens x passes"):
        video_request({**most, "num_inference_steps": 94}, LARGEST)
    assert video_request({**most, "num_inference_steps": 94, "guidance_scale": 1}, LARGEST)
