"""A job that is cancelled once its end was recorded keeps its files."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from wan_t2v_gateway.database.ending import Ending
from wan_t2v_gateway.database.records import Video
from wan_t2v_gateway.generation.run_video import VideoRunner
from wan_t2v_gateway.services import Services

from tests.fakes.scripted_server import MADE, VIDEO, serving
from tests.waiting import wait_until

Start = Callable[..., Any]
QUICK = {"heartbeat_s": 0.05, "poll_s": 0.05}


@pytest.fixture
def database(database_url: str) -> Iterator[Any]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def cancelling(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the worker knows of a cancellation."""
    event, cancelled = threading.Event(), VideoRunner._cancelled

    async def noted(self: VideoRunner, video: Video) -> None:
        event.set()
        await cancelled(self, video)

    monkeypatch.setattr(VideoRunner, "_cancelled", noted)
    return event


def test_a_cancellation_just_after_the_end_was_recorded_removes_no_file(
    start: Start, database: Any, monkeypatch: pytest.MonkeyPatch, cancelling: threading.Event
) -> None:
    end = Services.end

    async def slow(self: Services, video_id: str, ending: Ending, *, attempt: int | None = None) -> Video | None:
        video = await end(self, video_id, ending, attempt=attempt)
        if ending.status == "completed":
            await asyncio.Event().wait()
        return video

    monkeypatch.setattr(Services, "end", slow)
    with serving(MADE) as server:
        gateway = start(server_url=server.url, **QUICK)
        video_id = gateway.post()
        gateway.until(video_id, "completed")
        database.execute("UPDATE procrastinate_jobs SET abort_requested = true")
        assert cancelling.wait(60)
        wait_until(lambda: database.execute("SELECT FROM procrastinate_jobs").rowcount == 0)
        assert gateway.http.get(f"/v1/videos/{video_id}/content").content == VIDEO
