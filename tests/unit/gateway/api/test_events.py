"""The stream of a video's events: its end, those who come again, and how many may be open."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from wan_t2v_gateway.api import events
from wan_t2v_gateway.database.listener import SharedLooks

from tests.fakes.scripted_server import MADE, Pause, Step, serving
from tests.waiting import wait_until

Start = Callable[..., Any]
BEYOND = "9" * 18  # an id that no event has


def stream(gateway: Any, video_id: str, last_id: str = "0") -> httpx.Response:
    """The whole answer; a stream that does not end fails the test."""
    url, headers = f"{gateway.url}/v1/videos/{video_id}/events", {"last-event-id": last_id}
    return httpx.get(url, headers=headers, timeout=httpx.Timeout(60, read=14), trust_env=False)


def kinds(answer: httpx.Response) -> list[str]:
    return [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]


def last_id_of(answer: httpx.Response) -> str:
    return [line.removeprefix("id: ") for line in answer.text.splitlines() if line.startswith("id: ")][-1]


@contextlib.contextmanager
def opened(gateway: Any, video_id: str, **headers: str) -> Iterator[Iterator[str]]:
    """An open stream, by its lines."""
    url = f"{gateway.url}/v1/videos/{video_id}/events"
    with httpx.stream("GET", url, headers=headers, timeout=60, trust_env=False) as answer:
        assert answer.status_code == 200
        yield answer.iter_lines()


@pytest.mark.parametrize("ending", ["completed", "cancelled"])
def test_who_knows_the_last_event_of_an_ended_video_is_told_to_stop(start: Start, ending: str) -> None:
    with serving(MADE) as server:
        gateway = start(server_url=server.url, workers=1 if ending == "completed" else 0)
        video_id = gateway.post()
        if ending == "cancelled":
            gateway.http.post(f"/v1/videos/{video_id}/cancel")
        gateway.until(video_id, ending)
        first = stream(gateway, video_id)
        assert (first.status_code, kinds(first)[-1]) == (200, ending)
        for known in (last_id_of(first), BEYOND):
            again = stream(gateway, video_id, known)
            assert (again.status_code, again.content) == (204, b"")
        before = stream(gateway, video_id, str(int(last_id_of(first)) - 1))
        assert (before.status_code, kinds(before)) == (200, [ending])


def test_a_stream_ends_although_its_caller_named_an_event_that_nobody_was_told(start: Start) -> None:
    with serving((Step(1), Pause())) as server, ThreadPoolExecutor(1) as pool:
        gateway = start(server_url=server.url)
        video_id = gateway.post()
        gateway.until(video_id, "in_progress")
        with opened(gateway, video_id, **{"last-event-id": BEYOND}) as lines:
            rest = pool.submit(list, lines)
            gateway.http.post(f"/v1/videos/{video_id}/cancel")
            assert "event: cancelled" in rest.result(60)


def test_a_stream_ends_if_the_last_event_is_lost(start: Start, database_url: str) -> None:
    """It is told by the record that nothing comes any more."""
    with serving((Step(1), Pause())) as server, ThreadPoolExecutor(1) as pool:
        gateway = start(server_url=server.url)
        video_id = gateway.post()
        gateway.until(video_id, "in_progress")
        with opened(gateway, video_id) as lines, psycopg.connect(database_url) as connection:
            rest = pool.submit(list, lines)
            connection.execute("UPDATE videos SET status = 'failed' WHERE id = %s", [video_id])
            connection.commit()
            rest.result(60)


def test_watchers_who_know_everything_share_their_looks(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever event they said that they know."""
    keys: list[Any] = []
    ask = SharedLooks.ask

    async def noted(self: SharedLooks, key: Any, question: Any) -> Any:
        keys.append(key)
        return await ask(self, key, question)

    monkeypatch.setattr(SharedLooks, "ask", noted)
    gateway = start(workers=0)
    video_id = gateway.post()
    with contextlib.ExitStack() as stack:
        for number in range(5):
            beyond = str(int(BEYOND) - number)
            lines = stack.enter_context(opened(gateway, video_id, **{"last-event-id": beyond}))
            assert next(lines) == "event: queue"
    assert len(keys) >= 5 and len(set(keys)) == 1


def test_an_owner_has_so_many_open_streams_and_others_have_theirs(
    start: Start, database_url: str, monkeypatch: pytest.MonkeyPatch, owner: Callable[..., dict[str, str]]
) -> None:
    monkeypatch.setattr(events, "_MOST_STREAMS", 2)
    gateway = start(workers=0)
    anna, ben = owner("anna"), owner("ben")
    (mine, his) = (gateway.ask_for({"prompt": "x"}, key).json()["id"] for key in (anna, ben))
    path = f"/v1/videos/{mine}/events"
    with opened(gateway, mine, **anna), opened(gateway, mine, **anna):
        refused = gateway.http.get(path, headers=anna)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["message"].startswith("2 event streams of yours are open here (limit 2)")
        with opened(gateway, his, **ben):
            pass

    def is_open_again() -> bool:
        with gateway.http.stream("GET", path, headers=anna) as answer:
            return bool(answer.status_code == 200)

    wait_until(is_open_again)
