"""What the queue promises: dead workers, dying servers, and an absent database."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.child_process import child_process
from tests.fakes.scripted_server import MADE, VIDEO, Pause, Refusal, Step, serving

Start = Callable[..., Any]
QUICK = {"heartbeat_s": 0.2, "stalled_s": 1.0, "retry_s": 0.05, "poll_s": 0.05}


def test_a_dead_workers_job_goes_on_elsewhere_under_the_same_key(
    start: Start, database_url: str, tmp_path: Path
) -> None:
    with serving((Step(1), Pause()), MADE) as server:
        command = [sys.executable, "-m", "wan_t2v_gateway", "--url", server.url, "--database-url", database_url]
        options = ["--data", tmp_path, "--port", "0", "--resumes"]
        with child_process([*command, *options], stderr=subprocess.DEVNULL) as victim:
            front = start(server_url=server.url, workers=0, **QUICK)
            video_id = front.post()
            assert server.began.wait(20)
            victim.send_signal(signal.SIGKILL)
        start(server_url=server.url, resumes=True, **QUICK)
        video = front.until(video_id, "completed")
        assert video["attempts"] == 2
        assert front.http.get(f"/v1/videos/{video_id}/content").content == VIDEO
        keys = [request.parameters["idempotency_key"].string_param for request in server.requests]
        assert keys == [video_id, video_id]
        assert server.requests[0].raw_input_contents == server.requests[1].raw_input_contents


def test_a_stopping_gateway_gives_its_job_back(start: Start, database_url: str, tmp_path: Path) -> None:
    from tests.unit.gateway.running import running_gateway

    with serving((Step(1), Pause()), MADE) as server:
        with running_gateway(database_url=database_url, data=tmp_path, server_url=server.url, **QUICK) as first:
            video_id = first.post()
            assert server.began.wait(10)
        assert server.cancelled.wait(10)
        assert start(server_url=server.url, **QUICK).until(video_id, "completed")["attempts"] == 2


def test_a_server_that_is_busy_is_waited_for(start: Start) -> None:
    with serving((Refusal(),), (Refusal(),), MADE) as server:
        gateway = start(server_url=server.url, **QUICK)
        assert gateway.until(gateway.post(), "completed", "failed")["status"] == "completed"


def test_a_job_that_kills_its_server_three_times_fails_with_that_reason(start: Start) -> None:
    with serving((Step(1), Refusal("UNAVAILABLE", "Stub process is not healthy"))) as server:
        gateway = start(server_url=server.url, **QUICK)
        video = gateway.until(gateway.post(), "failed")
    assert len(server.requests) == 3
    assert "the server ended 3 times while it worked on this video" in video["error"]["message"]


@pytest.fixture
def own_database(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A database that a test may stop."""
    from tests.unit.gateway.conftest import postgres_in_memory

    with postgres_in_memory() as (url, folder):
        yield url, folder


def test_a_database_that_hangs_costs_no_job_and_answers_come_all_the_same(own_database: Any, tmp_path: Path) -> None:
    """503 within two seconds while it hangs; the video that runs is made, and recorded when it is back."""
    from tests.unit.gateway.running import running_gateway

    url, folder = own_database
    with (
        serving((Step(1), Pause(2.0), Step(2), MADE[-1])) as server,
        running_gateway(database_url=url, data=tmp_path, server_url=server.url) as gateway,
    ):
        video_id = gateway.post()
        assert server.began.wait(10)
        gateway.until(video_id, "in_progress")
        processes = database_processes(folder)
        try:
            for pid in processes:
                os.kill(pid, signal.SIGSTOP)
            answer = gateway.http.get("/v1/videos", timeout=httpx.Timeout(2.5))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            done = threading.Event()
            while server.finished == 0 and not done.wait(0.05):
                pass
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
        assert gateway.until(video_id, "completed")["attempts"] == 1
        later = gateway.post()
        gateway.until(later, "completed")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM procrastinate_jobs").fetchone() == (0,)


def database_processes(folder: Path) -> list[int]:
    import psutil

    main = psutil.Process(int((folder / "postgres/postmaster.pid").read_text().split()[0]))
    return [main.pid, *(child.pid for child in main.children())]


def test_a_job_that_the_queue_does_not_know_is_put_back(start: Start, database_url: str) -> None:
    video_id = start(workers=0).post()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM procrastinate_jobs")
        connection.execute("UPDATE videos SET created_at = created_at - interval '1 minute'")
    with serving(MADE) as server:
        start(server_url=server.url, **QUICK).until(video_id, "completed")
