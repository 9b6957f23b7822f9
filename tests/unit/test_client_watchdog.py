"""A server that falls silent is given up; one that lets a request wait for its turn is not."""

import pytest
from wan_t2v_client import DeadlineExceeded, Generation, Progress, Unavailable
from wan_t2v_client.deadline import Deadline
from wan_t2v_client.watchdog import IDLE_LIMIT_S, Watchdog

from tests.unit.asking import APIS, told
from tests.unit.scripted_server import MADE, Pause, Step, Video, serving


def step_of(seconds: float, step: int = 1) -> Progress:
    return Progress(step=step, num_inference_steps=4, timestep=9, expert="low_noise_expert", step_s=seconds, left_s=9)


def test_before_the_first_message_only_the_deadline_counts() -> None:
    assert Watchdog(IDLE_LIMIT_S, Deadline(None)).limit().seconds is None
    limit = Watchdog(IDLE_LIMIT_S, Deadline(3600.0, lambda: 0.0)).limit()
    assert limit.seconds == 3600 and isinstance(limit.error, DeadlineExceeded)


def test_after_it_thirty_seconds_or_five_of_the_longest_steps() -> None:
    watchdog = Watchdog(IDLE_LIMIT_S, Deadline(None))
    watchdog.told(step_of(2.0))
    assert watchdog.limit().seconds == 30 and isinstance(watchdog.limit().error, Unavailable)
    watchdog.told(step_of(22.0))
    watchdog.told(step_of(2.0))
    assert watchdog.limit().seconds == 110


def test_after_the_last_step_decoding_may_take_the_time_of_thirty() -> None:
    watchdog = Watchdog(IDLE_LIMIT_S, Deadline(None))
    watchdog.told(step_of(22.0, step=3))
    assert watchdog.limit().seconds == 110
    watchdog.told(step_of(21.0, step=4))
    assert watchdog.limit().seconds == 660


def test_the_nearer_of_deadline_and_silence_counts() -> None:
    watchdog = Watchdog(IDLE_LIMIT_S, Deadline(20.0, lambda: 0.0))
    watchdog.told(step_of(1.0))
    assert watchdog.limit().seconds == 20 and isinstance(watchdog.limit().error, DeadlineExceeded)


@pytest.mark.parametrize("api", APIS)
def test_a_server_that_falls_silent_is_given_up_and_told_so(api: str) -> None:
    with serving([Step(1), Pause()]) as server:
        with pytest.raises(Unavailable, match="told nothing for 0 s after a step; the request was cancelled"):
            told(api, server.url, idle_limit_s=0.3)
        assert server.cancelled.wait(10)


@pytest.mark.parametrize("api", APIS)
def test_a_request_that_waits_for_its_turn_is_left_waiting(api: str) -> None:
    with serving([Pause(1.0), *MADE]) as server:
        assert isinstance(told(api, server.url, idle_limit_s=0.05)[-1], Generation)
        assert not server.cancelled.is_set()


@pytest.mark.parametrize("api", APIS)
def test_long_steps_may_be_followed_by_long_silence(api: str) -> None:
    with serving([Step(1, step_s=6.0), Pause(1.0), Step(2), Pause(1.0), Video()]) as server:
        assert len(told(api, server.url, idle_limit_s=0.05)) == 3


@pytest.mark.parametrize("api", APIS)
def test_a_deadline_ends_the_wait_for_a_turn_and_the_server_hears_of_it(api: str) -> None:
    with serving([Pause()]) as server:
        with pytest.raises(DeadlineExceeded):
            told(api, server.url, deadline_s=0.5, idle_limit_s=0.05)
        assert server.cancelled.wait(10)
