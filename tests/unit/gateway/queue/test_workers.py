"""Workers that stop, or are forgotten, while the database is away."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from wan_t2v_gateway.queue import workers

from tests.fakes.scripted_server import MADE, Pause, Step, serving
from tests.unit.gateway.running import running_gateway
from tests.unit.gateway.severed_database import severable
from tests.waiting import wait_until

Start = Callable[..., Any]


@pytest.mark.parametrize("script", [MADE, (Step(1), Pause())])
def test_a_gateway_stops_although_the_database_is_away(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Any
) -> None:
    """Idle or at work. `running_gateway` fails if it does not stop."""
    monkeypatch.setattr(workers, "_STOP_LIMIT_S", 1.0)
    with (
        serving(script) as server,
        severable(database_url) as database,
        running_gateway(database_url=database.url, data=tmp_path, server_url=server.url) as gateway,
    ):
        gateway.until(gateway.post(), "completed" if script is MADE else "in_progress")
        database.sever()


def test_a_worker_that_was_forgotten_takes_jobs_again(start: Start, database_url: str) -> None:
    """As after an outage of hours: the next gateway that starts forgets all who were silent."""
    with serving(MADE) as server, psycopg.connect(database_url, autocommit=True) as database:
        gateway = start(server_url=server.url, heartbeat_s=0.05, poll_s=0.05)
        known = "SELECT id FROM procrastinate_workers ORDER BY id"
        wait_until(lambda: database.execute(known).rowcount == 2)
        before = database.execute(known).fetchall()
        database.execute("DELETE FROM procrastinate_workers")
        wait_until(lambda: database.execute(known).fetchall() == before)
        gateway.until(gateway.post(), "completed")
