"""A job that is always refused, or kills its server before a step: the jobs behind it are made all the same."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import psycopg
import pytest
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.records import Video
from wan_t2v_gateway.generation import pauses, run_video

from tests.fakes import scripted_server
from tests.fakes.responses import response
from tests.fakes.scripted_server import MADE, Beat, Refusal, Script, ScriptedServer, serving
from tests.unit.gateway.severed_database import severable
from tests.unit.gateway.stepwise import StepwiseServer, serving_stepwise
from tests.waiting import wait_until

Start = Callable[..., Any]
Answer = Callable[[str], Script]
QUICK = {"heartbeat_s": 0.05, "poll_s": 0.05, "retry_s": 0.05}
DEAD = Refusal(message="prepare: cannot answer at the moment, try again: Stub process 'prepare_0_0' is not healthy.")
REFUSED = Refusal(message="low_noise_expert could not be swapped in for high_noise_expert, try again: no memory")


@pytest.fixture
def database(database_url: str) -> Iterator[Any]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def by_prompt(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """Make the server answer by the prompt."""
    begun = ScriptedServer._begun

    def answer_by(answer: Answer) -> None:
        def answered(self: ScriptedServer, request: Any, context: grpc.ServicerContext) -> Script:
            begun(self, request, context)
            return answer(request.raw_input_contents[0][4:].decode())

        monkeypatch.setattr(ScriptedServer, "_begun", answered)

    return answer_by


@pytest.fixture
def short_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hold stands to a test's pauses as it does to those of a gateway."""
    monkeypatch.setattr(pauses, "_SHORT_HOLD_S", 0.05)


@pytest.fixture
def admitting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat tells that `prepare` works on the request, as the server's first one does."""
    done = scripted_server.done

    def prepare(act: Any, context: Any, left: Any) -> Iterator[Any]:
        yield from [heartbeat("prepare")] if isinstance(act, Beat) else done(act, context, left)

    monkeypatch.setattr(scripted_server, "done", prepare)


def heartbeat(stage: str) -> Any:
    return response(heartbeat=json.dumps({"stage": stage, "stage_s": 0.0, "ahead": None}).encode())


@pytest.mark.parametrize("database_s", [0.0, 0.5])
def test_jobs_behind_one_that_is_always_refused_are_made_after_some_attempts(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    short_hold: None,
    by_prompt: Callable[[Answer], None],
    database_s: float,
) -> None:
    """And no earlier, even if the database takes longer than the pause."""
    put_back = run_video.put_back

    async def slow(database: Database, video: Video, *, outage_s: float = 0.0) -> None:
        await put_back(database, video, outage_s=outage_s)
        await asyncio.sleep(database_s)

    monkeypatch.setattr(run_video, "put_back", slow)
    by_prompt(lambda prompt: (REFUSED,) if prompt == "refused" else MADE)
    with serving(MADE) as server:
        gateway = start(server_url=server.url, **{**QUICK, "retry_s": 0.2})
        refused = gateway.post(prompt="refused")
        wait_until(lambda: server.requests)
        gateway.until(gateway.post(), "completed")
        assert gateway.video(refused)["status"] in ("queued", "in_progress")
        assert server.prompts().index("a red ball") > pauses._HELD_ATTEMPTS


def test_the_other_jobs_of_an_owner_who_may_run_one_are_made_too(
    start: Start, owner: Any, short_hold: None, by_prompt: Callable[[Answer], None]
) -> None:
    by_prompt(lambda prompt: (REFUSED,) if prompt == "refused" else MADE)
    with serving(MADE) as server:
        gateway = start(server_url=server.url, **{**QUICK, "retry_s": 0.2})
        gateway.http.headers.update(owner("ada", most_running=1))
        refused = gateway.post(prompt="refused")
        gateway.until(gateway.post(), "completed")
        assert gateway.video(refused)["status"] in ("queued", "in_progress")
        assert server.most_at_once == 1


def test_jobs_that_meet_a_process_which_was_dead_before_are_made_once_it_is_back(
    start: Start, database: Any, admitting: None, short_hold: None, by_prompt: Callable[[Answer], None]
) -> None:
    alive = True
    by_prompt(lambda prompt: MADE if alive else (Beat(), DEAD))
    with serving(MADE) as server:
        gateway = start(server_url=server.url, **QUICK)
        gateway.until(gateway.post(), "completed")
        alive = False
        ids = [gateway.post(prompt=str(number)) for number in range(3)]
        wait_until(lambda: min(server.prompts().count(str(number)) for number in range(3)) >= 4)
        ((crashes,),) = database.execute("SELECT sum(crashes) FROM videos").fetchall()
        assert crashes == 1  # the first one's, which could have killed it
        alive = True
        for video_id in ids:
            assert gateway.until(video_id, "completed", "failed")["error"] is None


def test_a_job_that_kills_a_process_before_its_first_step_fails_after_three_deaths(
    start: Start, admitting: None, short_hold: None, by_prompt: Callable[[Answer], None]
) -> None:
    by_prompt(lambda prompt: (Beat(), DEAD) if prompt == "kills" else MADE)
    with serving(MADE) as server:
        gateway = start(server_url=server.url, **QUICK)
        gateway.until(gateway.post(), "completed")
        killer = gateway.post(prompt="kills")

        def failed_after_another() -> bool:
            gateway.until(gateway.post(), "completed")
            return bool(gateway.video(killer)["status"] == "failed")

        wait_until(failed_after_another)
        assert "the server ended 3 times while it worked on" in gateway.video(killer)["error"]["message"]


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


def beat(server: StepwiseServer, stage: str) -> None:
    server.answers.put((heartbeat(stage), False))


def test_a_job_that_kills_its_server_before_a_step_fails_after_three_deaths(start: Start, database: Any) -> None:
    gateway, video_id = lose_server(start, database, "prepare", 3)
    error = gateway.until(video_id, "failed")["error"]
    assert "the server ended 3 times while it worked on this video" in error["message"]


def test_a_server_that_dies_while_a_job_waits_in_its_queue_is_not_the_jobs_fault(start: Start, database: Any) -> None:
    lose_server(start, database, "queue", 1)
    assert database.execute("SELECT crashes FROM videos").fetchone() == (0,)
