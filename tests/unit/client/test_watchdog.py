"""A server that falls silent is given up; one that lets a request wait for its turn is not."""

import pytest
from wan_t2v_client import DeadlineExceeded, Generation, Heartbeat, Progress, Unavailable
from wan_t2v_client.deadline import Deadline
from wan_t2v_client.errors import ServerSilent
from wan_t2v_client.watchdog import IDLE_LIMIT_S, Watchdog

from tests.fakes.call_client import APIS, collect_stream
from tests.fakes.scripted_server import MADE, Beat, Pause, Step, Video, serving


def step_of(seconds: float, step: int = 1) -> Progress:
    return Progress(step=step, num_inference_steps=4, timestep=9, expert="low_noise_expert", step_s=seconds, left_s=9)


def test_before_the_first_message_only_the_deadline_counts() -> None:
    assert Watchdog(IDLE_LIMIT_S, Deadline(None)).limit().seconds is None
    limit = Watchdog(IDLE_LIMIT_S, Deadline(3600.0, lambda: 0.0)).limit()
    assert limit.seconds == 3600 and isinstance(limit.error, DeadlineExceeded)


def test_after_it_thirty_seconds_or_five_of_the_longest_steps() -> None:
    watchdog = Watchdog(IDLE_LIMIT_S, Deadline(None))
    watchdog.record(step_of(2.0))
    assert watchdog.limit().seconds == 30 and isinstance(watchdog.limit().error, Unavailable)
    watchdog.record(step_of(22.0))
    watchdog.record(step_of(2.0))
    assert watchdog.limit().seconds == 110


def test_after_the_last_step_decoding_may_take_the_time_of_thirty() -> None:
    watchdog = Watchdog(IDLE_LIMIT_S, Deadline(None))
    watchdog.record(step_of(22.0, step=3))
    assert watchdog.limit().seconds == 110
    watchdog.record(step_of(21.0, step=4))
    assert watchdog.limit().seconds == 660


def test_the_nearer_of_deadline_and_silence_counts() -> None:
    watchdog = Watchdog(IDLE_LIMIT_S, Deadline(20.0, lambda: 0.0))
    watchdog.record(step_of(1.0))
    assert watchdog.limit().seconds == 20 and isinstance(watchdog.limit().error, DeadlineExceeded)


def test_once_a_heart_was_heard_its_silence_counts_also_before_the_first_step() -> None:
    watchdog = Watchdog(IDLE_LIMIT_S, Deadline(None))
    watchdog.record(Heartbeat("queue", 0.0, ahead=1))
    assert watchdog.limit().seconds == 30 and "no sign of life for 30 s" in str(watchdog.limit().error)


def test_a_heart_that_beats_over_hung_work_does_not_help_for_ever() -> None:
    seconds = 0.0
    watchdog = Watchdog(IDLE_LIMIT_S, Deadline(None), lambda: seconds)
    watchdog.record(step_of(10.0))
    for _ in range(9):
        watchdog.limit()
        seconds += 5
        watchdog.record(Heartbeat("denoise", 5.0))
    limit = watchdog.limit()
    assert limit.seconds == 5 and "told nothing for 50 s after a step" in str(limit.error)


def test_a_load_that_the_server_tells_of_may_take_as_long_as_it_does() -> None:
    """Longer than five of the steps before it; afterwards the work has its whole time again."""
    seconds = 0.0
    watchdog = Watchdog(IDLE_LIMIT_S, Deadline(None), lambda: seconds)
    watchdog.record(step_of(1.0))
    for _ in range(100):
        assert watchdog.limit().seconds == 30
        seconds += 5
        watchdog.record(Heartbeat("load", 5.0))
    assert watchdog.limit().seconds == 30
    seconds += 5
    watchdog.record(Heartbeat("denoise", 5.0))
    assert watchdog.limit().seconds == 25


def test_who_reads_late_is_not_counted() -> None:
    seconds = 0.0
    watchdog = Watchdog(IDLE_LIMIT_S, Deadline(None), lambda: seconds)
    watchdog.record(step_of(10.0))
    seconds += 1000
    assert watchdog.limit().seconds == 50


@pytest.mark.parametrize("api", APIS)
def test_a_process_that_dies_while_requests_wait_in_its_queue_is_noticed(api: str) -> None:
    heartbeats: list[Heartbeat] = []
    with serving([Beat(ahead=3), Pause()]) as server:
        with pytest.raises(ServerSilent, match="no sign of life for 0 s; the request was cancelled"):
            collect_stream(api, server.url, idle_limit_s=0.3, on_heartbeat=heartbeats.append)
        assert server.cancelled.wait(10)
    assert heartbeats == [Heartbeat("queue", 5.0, ahead=3)]


@pytest.mark.parametrize("api", APIS)
def test_who_waits_while_the_heart_beats_is_left_waiting(api: str) -> None:
    with serving([*[Beat(), Pause(0.4)] * 5, *MADE]) as server:
        assert isinstance(collect_stream(api, server.url, idle_limit_s=1.5)[-1], Generation)


@pytest.mark.parametrize("api", APIS)
def test_a_server_that_falls_silent_is_given_up_and_told_so(api: str) -> None:
    with serving([Step(1), Pause()]) as server:
        with pytest.raises(ServerSilent, match="told nothing for 0 s after a step; the request was cancelled"):
            collect_stream(api, server.url, idle_limit_s=0.3)
        assert server.cancelled.wait(10)


@pytest.mark.parametrize("api", APIS)
def test_a_request_that_waits_for_its_turn_is_left_waiting(api: str) -> None:
    with serving([Pause(1.0), *MADE]) as server:
        assert isinstance(collect_stream(api, server.url, idle_limit_s=0.05)[-1], Generation)
        assert not server.cancelled.is_set()


@pytest.mark.parametrize("api", APIS)
def test_long_steps_may_be_followed_by_long_silence(api: str) -> None:
    with serving([Step(1, step_s=6.0), Pause(1.0), Step(2), Pause(1.0), Video()]) as server:
        assert len(collect_stream(api, server.url, idle_limit_s=0.05)) == 3


@pytest.mark.parametrize("api", APIS)
def test_a_deadline_ends_the_wait_for_a_turn_and_the_server_hears_of_it(api: str) -> None:
    with serving([Pause()]) as server:
        with pytest.raises(DeadlineExceeded):
            collect_stream(api, server.url, deadline_s=0.5, idle_limit_s=0.05)
        assert server.cancelled.wait(10)
