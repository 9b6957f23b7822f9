"""A job that is always refused, or kills its server before a step: the jobs behind it are made all the same."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import psycopg
import pytest
from wan_t2v_client import Unavailable
from wan_t2v_gateway.generation import run_video
from wan_t2v_gateway.generation.failures import is_death

from tests.fakes.responses import response
from tests.fakes.scripted_server import BUSY, MADE, Refusal, Script, ScriptedServer, serving
from tests.unit.gateway.severed_database import severable
from tests.unit.gateway.stepwise import StepwiseServer, serving_stepwise
from tests.waiting import wait_until

Start = Callable[..., Any]
QUICK = {"heartbeat_s": 0.05, "poll_s": 0.05, "retry_s": 0.05}
DEATH = "cannot answer at the moment, try again: Stub process 'prepare_0_0' is not healthy."


@pytest.fixture
def database(database_url: str) -> Iterator[Any]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def test_jobs_behind_one_that_is_always_refused_are_made(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = ScriptedServer._begun

    def refuse_one(self: ScriptedServer, request: Any, context: grpc.ServicerContext) -> Script:
        begun(self, request, context)
        return (Refusal(),) if b"refused" in request.raw_input_contents[0] else MADE

    monkeypatch.setattr(ScriptedServer, "_begun", refuse_one)
    monkeypatch.setattr(run_video, "_SHORT_HOLD_S", 0.05)
    with serving(MADE) as server:
        gateway = start(server_url=server.url, **{**QUICK, "retry_s": 0.2})
        refused = gateway.post(prompt="refused")
        wait_until(lambda: server.requests)
        gateway.until(gateway.post(), "completed")
        assert gateway.video(refused)["status"] in ("queued", "in_progress")
        assert gateway.video(refused)["attempts"] > run_video._HELD_ATTEMPTS


def beat(server: StepwiseServer, stage: str) -> None:
    told = {"stage": stage, "stage_s": 5.0, "ahead": None}
    server.answers.put((response(heartbeat=json.dumps(told).encode()), False))


def lose_server(start: Start, database: Any, stage: str, times: int) -> tuple[Any, str]:
    """A gateway, and its job that lost the connection to its server so often, each time after a heartbeat."""
    with serving_stepwise() as server, severable(f"tcp://{server.url}") as connection:
        gateway = start(server_url=connection.url.removeprefix("tcp://"), **QUICK)
        video_id = gateway.post()
        for number in range(1, times + 1):
            wait_until(lambda number=number: len(server.requests) == number)
            beat(server, stage)
            events = "SELECT FROM video_events WHERE kind = 'stage'"
            wait_until(lambda number=number, events=events: database.execute(events).rowcount == number)
            connection.sever()
            wait_until(server.cancelled.is_set)  # else this call could take the next one's answer
            server.cancelled.clear()
            gateway.until(video_id, "queued", "failed")
            connection.mend()
        return gateway, video_id


def test_a_job_that_kills_its_server_before_a_step_fails_after_three_deaths(start: Start, database: Any) -> None:
    gateway, video_id = lose_server(start, database, "prepare", 3)
    error = gateway.until(video_id, "failed")["error"]
    assert "the server ended 3 times while it worked on this video" in error["message"]


def test_a_server_that_dies_while_a_job_waits_in_its_queue_is_not_the_jobs_fault(start: Start, database: Any) -> None:
    lose_server(start, database, "queue", 1)
    assert database.execute("SELECT crashes FROM videos").fetchone() == (0,)


@pytest.mark.parametrize(
    ("message", "death"),
    [
        (DEATH, True),
        ("Socket closed", True),
        ("recvmsg:Connection reset by peer", True),
        ("cannot answer at the moment, try again: it answered without video", True),
        ("the server gave no sign of life for 30 s; the request was cancelled", True),
        (BUSY, False),
        ("a request with the key 'x' is being worked on", False),
        ("cannot answer at the moment, try again: Exceeds maximum queue size", False),
        ("cannot answer at the moment, try again: Request for unknown model: 'decode' is not ready", False),
        ("Server not ready", False),
        ("the server is stopped accepting new requests", False),
        ("failed to connect to all addresses; last error: Connection refused", False),
    ],
)
def test_a_refusal_is_no_death(message: str, death: bool) -> None:
    assert is_death(Unavailable(message)) is death
