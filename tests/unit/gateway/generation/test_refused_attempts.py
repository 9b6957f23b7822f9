"""A server that is busy, absent or not ready: whose turn it is meanwhile, and how long a job waits."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from wan_t2v_gateway.generation import pauses
from wan_t2v_gateway.storage.store import StorageUnavailable, Store

from tests.fakes.scripted_server import MADE, Pause, Refusal, Step, serving
from tests.waiting import wait_until

Start = Callable[..., Any]
QUICK = {"heartbeat_s": 0.05, "poll_s": 0.05, "retry_s": 0.05}
BEGUN = "SELECT FROM videos WHERE started_at IS NOT NULL"


@pytest.fixture
def database(database_url: str) -> Iterator[Any]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def test_a_job_that_was_only_refused_has_not_begun_and_no_later_one_is_tried(
    start: Start, database: Any, owner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "_SHORT_HOLD_S", 0.0)  # a busy server refuses all jobs, so it must not matter
    with serving((Refusal(),)) as server:
        gateway = start(server_url=server.url, **QUICK)
        ada, ben = owner("ada"), owner("ben")
        for number in range(5):
            gateway.post(ada, prompt=str(number))
        wait_until(lambda: len(server.requests) >= pauses._HELD_ATTEMPTS + 4)
        wait_until(lambda: database.execute(BEGUN).rowcount == 0)
        gateway.post(ben)
        turns = "SELECT owner, array_agg(turn ORDER BY turn) FROM videos GROUP BY owner ORDER BY owner"
        assert database.execute(turns).fetchall() == [("ada", [0, 1, 2, 3, 4]), ("ben", [0])]
        assert set(server.prompts()) == {"0"}


def test_jobs_are_made_in_their_order_after_a_busy_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "_SHORT_HOLD_S", 0.0)
    with serving(*[(Refusal(),)] * (pauses._HELD_ATTEMPTS + 3), MADE) as server:
        gateway = start(server_url=server.url, **QUICK)
        for video_id in [gateway.post(prompt=name) for name in ("first", "second", "third")]:
            gateway.until(video_id, "completed")
    assert list(dict.fromkeys(server.prompts())) == ["first", "second", "third"]


def test_while_the_store_is_away_one_job_is_made_again_and_no_other(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(self: Store, folder: str, variant: str, data: bytes) -> None:
        raise StorageUnavailable("the store refused a file: away")

    monkeypatch.setattr(pauses, "_SHORT_HOLD_S", 0.0)
    monkeypatch.setattr(Store, "put", away)
    with serving(MADE) as server:
        gateway = start(server_url=server.url, **QUICK)
        for number in range(3):
            gateway.post(prompt=str(number))
        wait_until(lambda: len(server.requests) >= pauses._HELD_ATTEMPTS + 4)
        assert set(server.prompts()) == {"0"}


def test_a_job_that_lost_its_server_after_a_step_has_begun(start: Start, database: Any) -> None:
    with serving((Step(1), Refusal("UNAVAILABLE", "Stub process is not healthy")), (Refusal(),)) as server:
        gateway = start(server_url=server.url, crashes_allowed=9, **QUICK)
        gateway.post()
        wait_until(lambda: len(server.requests) >= 3)
        wait_until(lambda: database.execute("SELECT FROM videos WHERE status = 'queued'").rowcount)
        assert database.execute(BEGUN).rowcount == 1


def test_while_the_server_is_not_ready_no_job_begins(start: Start, database: Any) -> None:
    with serving(MADE) as server:
        server.ready = False
        gateway = start(server_url=server.url, **QUICK)
        video_id = gateway.post()
        asked = server.asked_whether_ready
        wait_until(lambda: server.asked_whether_ready > asked + 3)
        assert gateway.video(video_id)["attempts"] == 0 and not server.requests
        server.ready = True
        assert gateway.until(video_id, "completed")["attempts"] == 1


def test_time_in_the_queue_is_no_wait_for_the_server(start: Start, database: Any) -> None:
    """As after an administrator's pause of two days."""
    with serving((Refusal(),), (Refusal(),), MADE) as server:
        gateway = start(server_url=server.url, longest_outage_s=60.0, **{**QUICK, "retry_s": 0.2})
        video_id = gateway.post()
        wait_until(lambda: server.requests)
        gateway.http.post("/v1/queue/pause", json={})
        wait_until(lambda: gateway.video(video_id)["status"] == "queued")
        database.execute(
            "UPDATE videos SET (created_at, started_at) = (now() - interval '2 days', now() - interval '2 days')"
        )
        gateway.http.post("/v1/queue/resume", json={})
        assert gateway.until(video_id, "completed", "failed")["error"] is None


def test_a_job_fails_when_the_server_refused_it_for_too_long(start: Start) -> None:
    with serving((Refusal(),)) as server:
        gateway = start(server_url=server.url, longest_outage_s=0.5, **QUICK)
        error = gateway.until(gateway.post(), "failed")["error"]
    assert "given up after" in error["message"] and len(server.requests) >= 2


def test_work_that_a_crash_interrupted_is_no_wait_for_the_server(start: Start, database: Any) -> None:
    crash = (Step(1), Pause(0.2), Refusal("UNAVAILABLE", "Stub process is not healthy"))
    with serving(crash, (Step(1), Pause())) as server:
        start(server_url=server.url, **QUICK).post()
        wait_until(lambda: len(server.requests) == 2)
        ((waited_s,),) = database.execute("SELECT outage_s FROM videos").fetchall()
    assert waited_s == QUICK["retry_s"]  # the pause
