"""Trying again: only while the server is unavailable, later each time, never past the deadline."""

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException
from wan_t2v_client import (
    ClientError,
    DeadlineExceeded,
    Generation,
    RequestRefused,
    Unavailable,
)
from wan_t2v_client.deadline import Deadline
from wan_t2v_client.errors import AlreadyRunning, ServerSilent, client_error
from wan_t2v_client.retry import Retries, RetryPolicy

from tests.fakes.call_client import APIS, collect_stream, steps, unary
from tests.fakes.pb_utils import FakePbUtils
from tests.fakes.scripted_server import BUSY, MADE, VIDEO, Pause, Refusal, Step, serving
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.serving.admission.estimate import DurationEstimator, Workload
from wan_t2v.serving.admission.options import QueueOptions
from wan_t2v.serving.admission.queue import Admission, AdmissionLimits
from wan_t2v.serving.errors import Overloaded
from wan_t2v.serving.python_backend.responses import error_response

QUICK = RetryPolicy(first_wait_s=0.01, longest_wait_s=0.05)


class Clock:
    """A clock that a test sets."""

    time = 100.0

    def __call__(self) -> float:
        return self.time


def retries(policy: RetryPolicy, deadline_s: float | None = None, clock: Callable[[], float] | None = None) -> Retries:
    return Retries(policy, Deadline(deadline_s, clock or Clock()))


def test_waits_double_up_to_a_limit_and_half_of_each_is_random() -> None:
    for drawn, expected in ((0.0, [0.5, 1, 2, 4, 5, 5]), (1.0, [1, 2, 4, 8, 10, 10])):
        policy = RetryPolicy(attempts=7, longest_wait_s=10, random=lambda drawn=drawn: drawn)
        tried = retries(policy)
        assert [tried.wait_s(Unavailable("busy")) for _ in range(6)] == expected


def test_the_servers_own_estimate_is_waited_for_as_well(run_directory: Path) -> None:
    """As the server says it: its admission is asked."""
    run = RunDirectory.of_server(run_directory, os.getpid())
    asked = QueueOptions(Workload(64, 64, 17, 10, guided=True))
    DurationEstimator(run).record(asked.work, step_s=1.25, after_s=0.0)
    admission = Admission(run, endpoint="text_to_video_stream", limits=AdmissionLimits(1, 0))
    with admission.turn(admission.enter(asked), lambda: False), pytest.raises(Overloaded) as full:
        admission.enter(asked)
    told = error_response(FakePbUtils(), full.value).error().message()
    error = client_error(InferenceServerException(msg=told, status="StatusCode.UNAVAILABLE"))
    assert isinstance(error, Unavailable) and error.retry_after_s == 13
    policy = RetryPolicy(random=lambda: 0.0)
    assert retries(policy).wait_s(error) == 13.5
    assert client_error(InferenceServerException(msg=BUSY, status="StatusCode.UNAVAILABLE")).retry_after_s is None


@pytest.mark.parametrize("error", [RequestRefused("height"), DeadlineExceeded("late"), ClientError("broken")])
def test_nothing_but_unavailable_is_tried_again(error: ClientError) -> None:
    with pytest.raises(type(error)) as raised:
        retries(RetryPolicy()).wait_s(error)
    assert raised.value is error


def test_after_so_many_tries_the_error_says_how_many() -> None:
    tried = retries(RetryPolicy(attempts=3))
    tried.wait_s(Unavailable("busy"))
    tried.wait_s(Unavailable("busy"))
    with pytest.raises(Unavailable, match="^busy; tried 3 times$"):
        tried.wait_s(Unavailable("busy"))


@pytest.mark.parametrize("kind", [Unavailable, AlreadyRunning, ServerSilent])
def test_the_last_error_keeps_its_class(kind: type[Unavailable]) -> None:
    tried = retries(RetryPolicy(attempts=2))
    tried.wait_s(kind("busy"))
    with pytest.raises(Unavailable) as last:
        tried.wait_s(kind("busy", retry_after_s=5))
    assert type(last.value) is kind and last.value.retry_after_s == 5


def test_no_wait_goes_past_the_deadline() -> None:
    clock = Clock()
    tried = retries(RetryPolicy(random=lambda: 1.0), 10, clock)
    assert tried.wait_s(Unavailable("busy", retry_after_s=5)) == 6
    clock.time += 6
    with pytest.raises(Unavailable, match="the next try, in 5 s, would come after the deadline"):
        tried.wait_s(Unavailable("busy", retry_after_s=3))


def test_a_video_of_which_steps_were_told_is_tried_again_only_if_that_is_wanted() -> None:
    with pytest.raises(Unavailable):
        retries(RetryPolicy()).wait_s(Unavailable("gone"), progressed=True)
    assert retries(RetryPolicy(after_progress=True)).wait_s(Unavailable("gone"), progressed=True) > 0


@pytest.mark.parametrize("api", APIS)
def test_a_busy_server_is_asked_again_with_the_same_request(api: str) -> None:
    heard: list[tuple[str, float]] = []
    policy = RetryPolicy(first_wait_s=0.01, on_wait=lambda error, wait_s: heard.append((str(error), wait_s)))
    with serving([Refusal()], [Refusal("INTERNAL", "Stub process 'x' is not healthy.")], MADE) as server:
        news = collect_stream(api, server.url, retry=policy, seed=7)
    assert steps(news) == [1, 2] and isinstance(news[-1], Generation) and news[-1].video == VIDEO
    assert [text for text, _ in heard] == [BUSY, "Stub process 'x' is not healthy."]
    assert len(server.requests) == 3 and all(request == server.requests[0] for request in server.requests)


@pytest.mark.parametrize("api", APIS)
def test_a_refused_request_is_sent_once(api: str) -> None:
    with serving([Refusal("INVALID_ARGUMENT", "height: got 100")]) as server:
        with pytest.raises(RequestRefused, match="height: got 100"):
            collect_stream(api, server.url, retry=QUICK)
        assert len(server.requests) == 1


@pytest.mark.parametrize("api", APIS)
def test_by_default_nothing_is_tried_again(api: str) -> None:
    with serving([Refusal()], MADE) as server:
        with pytest.raises(Unavailable, match="try again later$"):
            collect_stream(api, server.url)
        assert len(server.requests) == 1


@pytest.mark.parametrize("api", APIS)
def test_a_server_that_breaks_down_after_a_step_is_asked_again_only_if_that_is_wanted(api: str) -> None:
    broken = [Step(1), Refusal("UNAVAILABLE", "gone")]
    with serving(broken, MADE) as server:
        with pytest.raises(Unavailable, match="^gone$"):
            collect_stream(api, server.url, retry=QUICK)
        assert len(server.requests) == 1
    wanted = RetryPolicy(first_wait_s=0.01, after_progress=True)
    with serving(broken, MADE) as server:
        assert steps(collect_stream(api, server.url, retry=wanted)) == [1, 1, 2]


@pytest.mark.parametrize("api", APIS)
def test_the_deadline_is_for_all_tries_together(api: str) -> None:
    with serving([Refusal()], [Pause()]) as server:
        with pytest.raises(DeadlineExceeded):
            collect_stream(api, server.url, retry=QUICK, deadline_s=1.0)
        first_us, second_us = (request.parameters["timeout"].int64_param for request in server.requests)
        assert 0 < second_us < first_us <= 1e6, "the server is told what is left"
    with serving([Refusal(message=f"{BUSY}, in about 60 s", retry_after_s=60)], MADE) as server:
        with pytest.raises(Unavailable, match="in about 60 s; the next try, in 6. s, would come after the deadline"):
            collect_stream(api, server.url, retry=RetryPolicy(), deadline_s=30.0)
        assert len(server.requests) == 1


@pytest.mark.parametrize("api", APIS)
def test_the_unary_endpoint_is_tried_again_by_the_same_policy(api: str) -> None:
    with serving([Refusal()], MADE) as server:
        assert unary(api, server.url, QUICK).video == VIDEO
        assert "timeout" not in server.requests[0].parameters
        assert len(server.requests) == 2


@pytest.mark.parametrize("api", APIS)
def test_a_server_that_starts_late_is_found(api: str) -> None:
    with serving(MADE) as gone:
        port = int(gone.url.rpartition(":")[2])
    late = threading.Event()
    policy = RetryPolicy(attempts=50, first_wait_s=0.2, longest_wait_s=0.2, on_wait=lambda error, wait_s: late.set())
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(collect_stream, api, gone.url, retry=policy)
        assert late.wait(10), "it failed once"
        with serving(MADE, port=port):
            assert isinstance(asked.result(30)[-1], Generation)


def test_any_number_of_attempts_has_a_wait() -> None:
    assert RetryPolicy(attempts=10_000).wait_s(5_000, None) <= 60.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("attempts", value) for value in (0, -3, 2.5, "3", math.inf)],
        *[(name, value) for name in ("first_wait_s", "longest_wait_s") for value in (-1.0, math.nan, math.inf, 1e30)],
    ],
)
def test_a_policy_that_cannot_be_kept_is_refused_when_it_is_made(name: str, value: object) -> None:
    with pytest.raises(RequestRefused, match=f"^{name}: got "):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e30", "-5"])
def test_a_servers_estimate_that_cannot_be_waited_for_is_none(seconds: str) -> None:
    error = client_error(InferenceServerException(msg=f"busy [UNAVAILABLE retry_after_s={seconds}]"))
    assert isinstance(error, Unavailable) and error.retry_after_s is None
