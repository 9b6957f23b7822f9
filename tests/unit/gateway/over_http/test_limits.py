"""What an owner may use, what is counted, and the queue's pause."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from wan_t2v_gateway.__main__ import main

from tests.fakes.scripted_server import MADE, Pause, Step, serving

Start = Callable[..., Any]
QUICK = {"heartbeat_s": 0.2, "poll_s": 0.05}


def post(gateway: Any, key: dict[str, str], prompt: str = "x") -> Any:
    return gateway.ask_for({"prompt": prompt}, key)


def until(gateway: Any, key: dict[str, str], status: str, number: int) -> None:
    while len(gateway.http.get("/v1/videos", params={"status": status}, headers=key).json()["data"]) != number:
        pass


def test_an_owner_runs_no_more_than_allowed_and_the_next_begins_when_one_ends(start: Start, owner: Any) -> None:
    """The other owner's job, which came last, runs beside them."""
    held = (Step(1), Pause())
    with serving(*[held] * 4) as server:
        gateway = start(server_url=server.url, workers=4, **QUICK)
        many, few = owner("many", most_running=2), owner("few")
        ids = [post(gateway, many, f"many {number}").json()["id"] for number in range(4)]
        post(gateway, few, "few")
        until(gateway, few, "in_progress", 1)
        until(gateway, many, "in_progress", 2)
        while len(server.requests) < 3:
            pass
        assert set(server.prompts()) == {"many 0", "many 1", "few"}
        gateway.http.post(f"/v1/videos/{ids[1]}/cancel", headers=many)
        while len(server.requests) < 4:
            pass
        assert server.prompts()[3] == "many 3"  # of the lane that became free


def test_an_owner_who_may_run_no_job_gets_none(start: Start, owner: Any) -> None:
    refused = post(start(workers=0), owner("anna", most_running=0))
    assert (refused.status_code, "none of your jobs may run (limit 0)" in refused.text) == (429, True)


def test_a_day_of_work_is_used_up_also_by_deleted_videos(start: Start, owner: Any, database_url: str) -> None:
    with serving(MADE) as server:
        gateway = start(server_url=server.url, **QUICK)
        key = owner("anna", most_seconds_a_day=100)
        video_id = post(gateway, key).json()["id"]
        until(gateway, key, "completed", 1)
        assert gateway.http.delete(f"/v1/videos/{video_id}", headers=key).status_code == 200
        with psycopg.connect(database_url, autocommit=True) as database:
            ((seconds,),) = database.execute("SELECT seconds FROM work").fetchall()
            assert 0 < seconds < 60
            database.execute("UPDATE work SET seconds = 60, ended_at = now() - interval '23 hours'")
            database.execute("INSERT INTO work (owner, status, seconds) VALUES ('anna', 'failed', 45)")
        refused = post(gateway, key)
        assert (refused.status_code, "105 seconds of generation" in refused.text) == (429, True)
        assert 3500 < int(refused.headers["retry-after"]) <= 3600  # when the older of the two is a day old
        (mine,) = gateway.http.get("/v1/usage", headers=key).json()["data"]
        assert mine["last_day"] == {"seconds": 105.0, "completed": 1}
        assert mine["kept"] == {"videos": 0, "bytes": 0} and mine["limits"]["most_seconds_a_day"] == 100


def test_what_runs_counts_and_a_deleted_job_that_ran_does_too(start: Start, owner: Any, database_url: str) -> None:
    with serving((Step(1), Pause())) as server:
        gateway = start(server_url=server.url, **QUICK)
        key = owner("anna", most_seconds_a_day=1e-9)
        video_id = post(gateway, key).json()["id"]
        until(gateway, key, "in_progress", 1)
        assert post(gateway, key).status_code == 429
        gateway.http.delete(f"/v1/videos/{video_id}", headers=key)
        with psycopg.connect(database_url) as database:
            ((name, status, seconds),) = database.execute("SELECT owner, status, seconds FROM work").fetchall()
        assert (name, status) == ("anna", "cancelled") and seconds > 0
        assert post(gateway, key).status_code == 429


def test_an_administrator_sees_everybodys_usage(
    start: Start, owner: Any, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = start(workers=0)
    anna, root = owner("anna"), owner("root", administrator=True)
    post(gateway, anna)
    shown = gateway.http.get("/v1/usage", headers=root).json()["data"]
    assert {entry["owner"]: entry["queued"] for entry in shown} == {"anna": 1, "local": 0, "root": 0}
    assert [entry["owner"] for entry in gateway.http.get("/v1/usage", headers=anna).json()["data"]] == ["anna"]
    assert main(["--database-url", database_url, "usage", "anna"]) == 0
    assert json.loads(capsys.readouterr().out)["queued"] == 1
    assert main(["--database-url", database_url, "usage", "nobody"]) == 1


def test_a_paused_queue_begins_nothing_and_says_so(
    start: Start, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving((Step(1), Pause()), MADE) as server:
        gateway = start(server_url=server.url, workers=2, **QUICK)
        running = gateway.post(prompt="runs")
        assert server.began.wait(10)
        answer = gateway.http.post("/v1/queue/pause", json={"reason": "new disks"}).json()
        assert (answer["paused"], answer["reason"], answer["in_progress"]) == (True, "new disks", 1)
        waiting = gateway.post(prompt="waits")
        assert gateway.video(waiting)["queue"] == {"ahead": 0, "wait_s": None, "paused": True}
        gateway.http.post(f"/v1/videos/{running}/cancel")
        gateway.until(running, "cancelled")
        assert gateway.video(waiting)["status"] == "queued" and server.prompts() == ["runs"]
        assert main(["--database-url", database_url, "queue", "resume"]) == 0
        assert json.loads(capsys.readouterr().out)["paused"] is False
        gateway.until(waiting, "completed")


def test_only_an_administrator_pauses(start: Start, owner: Any, database_url: str) -> None:
    gateway = start(workers=0)
    anna, root = owner("anna"), owner("root", administrator=True)
    assert gateway.http.post("/v1/queue/pause", headers=anna).status_code == 403
    assert gateway.http.post("/v1/queue/pause", headers=root).json()["paused"]
    assert gateway.http.get("/v1/queue", headers=anna).json()["paused"]
    assert gateway.http.post("/v1/queue/resume", headers=anna).status_code == 403
    assert main(["--database-url", database_url, "queue", "pause", "--reason", "later"]) == 0
    assert gateway.http.get("/v1/queue", headers=anna).json()["reason"] == "later"
