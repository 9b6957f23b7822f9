"""Both endpoints of a real server share their limits, refuse at once, and know deadlines and priorities."""

import itertools
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing

import pytest
from wan_t2v_client import TextToVideo

from embedded.server import Server
from tests.server.calls import ENDPOINTS, LARGEST, SMALL, in_background, samples, streamed, unary
from tests.waiting import wait_until
from wan_t2v.operate.run_directory import WAITING, RunDirectory

RUNNING = {"num_inference_steps": 1000, "height": 128, "width": 128, "seed": 5}  # for minutes


def in_flight_and_queued(server: Server) -> tuple[float | None, float | None]:
    counted = samples(server)
    return counted.get("wan_t2v_generations_in_flight"), counted.get("wan_t2v_generations_queued")


def waiting(server: Server) -> int:
    """How many wait for their turn, without those that are still on their way to the denoiser.

    The gauge, which follows within a second, might miss a state that passes.
    """
    return len(RunDirectory(server.run_directory).occupied(WAITING))


def wait_until_in_flight(server: Server, count: int) -> None:
    """The gauges follow the other endpoint within a second, each on its own."""
    wait_until(lambda: in_flight_and_queued(server) == (count, 0))


def test_of_thirty_beside_a_running_video_sixteen_wait_and_the_others_are_refused_at_once(
    server: Server, client: TextToVideo
) -> None:
    """Whichever endpoint they came through; none of the refused waits for the running video, which goes on meanwhile."""
    with ThreadPoolExecutor(30) as pool:
        with closing(client.stream("a red ball", **RUNNING)) as running:
            next(running)
            answers = [
                pool.submit(ENDPOINTS[list(ENDPOINTS)[index % 2]], server, {**SMALL, "seed": index})
                for index in range(30)
            ]
            refused = list(itertools.islice(as_completed(answers), 14))
        served = [answer.result() for answer in answers if answer not in refused]
    told = {str(answer.result()) for answer in refused}
    full = "1 generations are under way (limit 1) and 16 wait (limit 16); try again later"
    assert all(full in answer for answer in told), told
    assert len(served) == 16 and all(isinstance(answer, bytes) for answer in served)
    wait_until_in_flight(server, 0)
    counted = samples(server)
    for door in ENDPOINTS:
        assert counted[f'wan_t2v_generations_ended_total{{door="{door}",outcome="refused_overloaded"}}'] >= 1


@pytest.mark.parametrize("door", ENDPOINTS)
def test_a_deadline_that_cannot_be_met_is_refused_early(door: str, server: Server) -> None:
    assert isinstance(streamed(server, {**SMALL, "num_inference_steps": 30}), bytes)
    answer = ENDPOINTS[door](server, LARGEST, timeout=20_000_000)
    assert isinstance(answer, str)
    assert "cannot be met: 90 steps of 256x256x81 take about" in answer
    assert door != "text_to_video" or answer.startswith("StatusCode.UNAVAILABLE")
    assert samples(server)[f'wan_t2v_generations_ended_total{{door="{door}",outcome="refused_deadline"}}'] >= 1


@pytest.mark.parametrize("door", ENDPOINTS)
def test_a_deadline_that_can_be_met_changes_nothing(door: str, server: Server) -> None:
    assert ENDPOINTS[door](server, SMALL, timeout=100_000_000) == ENDPOINTS[door](server, SMALL)


@pytest.mark.parametrize("door", ENDPOINTS)
def test_a_priority_goes_before_who_came_earlier(door: str, server: Server, client: TextToVideo) -> None:
    ended: list[str] = []

    def later(name: str, **parameters: int) -> None:
        answer = ENDPOINTS[door](server, {**SMALL, "num_inference_steps": 60}, parameters=parameters)
        ended.append(name if isinstance(answer, bytes) else answer)

    with ThreadPoolExecutor(2) as pool:
        with closing(client.stream("a red ball", **RUNNING)) as running:
            next(running)
            usual = pool.submit(later, "usual", queue_priority=5)
            wait_until(lambda: waiting(server) == 1)
            urgent = pool.submit(later, "urgent", queue_priority=1)
            wait_until(lambda: waiting(server) == 2)
        for future in (usual, urgent):
            future.result(timeout=120)
    assert ended == ["urgent", "usual"]


@pytest.mark.parametrize("door", ENDPOINTS)
def test_a_priority_that_is_none_is_refused_with_what_is_accepted(door: str, server: Server) -> None:
    answer = ENDPOINTS[door](server, SMALL, parameters={"queue_priority": 12})
    assert "queue_priority: got 12; accepted: an integer from 1 to 9" in str(answer)


@pytest.mark.parametrize("door", ENDPOINTS)
def test_over_http_a_deadline_and_a_priority_are_keys_of_the_json(door: str, server: Server) -> None:
    body = {"prompt": "a red ball", "video_encoding": "base64", **SMALL, "timeout": 100_000_000, "queue_priority": 2}
    way = "generate_stream" if door == "text_to_video_stream" else "generate"
    url = f"{server.http_url}/v2/models/{door}/{way}"
    with urllib.request.urlopen(urllib.request.Request(url, data=json.dumps(body).encode())) as answer:
        assert '"video":' in answer.read().decode().replace(" ", "")


def test_nobody_walks_in_with_a_made_up_key(server: Server) -> None:
    answer = unary(server, SMALL, parameters={"let_in": "0" * 32})
    assert str(answer).startswith("StatusCode.INVALID_ARGUMENT") and "let_in: got an unknown field" in str(answer)


@pytest.mark.parametrize("door", ENDPOINTS)
def test_a_wrong_field_is_refused_while_others_wait_for_their_turn(
    door: str, server: Server, client: TextToVideo
) -> None:
    """It must not wait for hours, nor hold a place, nor count for the seconds of those behind it."""
    wrong = {"width": 2**30, "height": 100, "seed": -1, "solver": "dpm", "num_inference_steps": 10**9}
    wrong |= {"preview_every": -1} if door == "text_to_video_stream" else {}
    with ThreadPoolExecutor(1) as pool:
        with closing(client.stream("a red ball", **RUNNING)) as running:
            next(running)
            waits = in_background(pool, door, server, **SMALL)
            wait_until(lambda: waiting(server) == 1)
            for field, value in wrong.items():
                answer = str(ENDPOINTS[door](server, {**SMALL, field: value}))
                assert f"{field}: got {value}" in answer or f"{field}: got '{value}'" in answer, answer
            assert not waits.done() and waiting(server) == 1
        assert isinstance(waits.result(), bytes)
