"""What `/metrics` tells, and that the page's table has all of it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wan_t2v_gateway.metrics import Histogram, sample

from tests.fakes.scripted_server import MADE, Pause, Step, serving

Start = Callable[..., Any]
PAGE = Path(__file__).parents[3] / "docs/use/gateway.md"


def samples(gateway: Any) -> dict[str, float]:
    lines = gateway.http.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_a_videos_way_is_measured(start: Start, database_url: str) -> None:
    with serving(MADE, (Step(1), Pause())) as server:
        gateway = start(server_url=server.url)
        gateway.until(gateway.post(), "completed")
        running, waiting = gateway.post(), gateway.post()
        gateway.until(running, "in_progress")
        told = samples(gateway)
    jobs = {state: told[f'wan_t2v_gateway_jobs{{status="{state}",class="local"}}'] for state in ("queued", "completed")}
    assert jobs == {"queued": 1, "completed": 1} and waiting
    assert told["wan_t2v_gateway_queued_seconds_count"] == 2
    assert told["wan_t2v_gateway_finishing_seconds_count"] == 1
    assert 0 < told["wan_t2v_gateway_finishing_seconds_sum"] < 60
    assert told["wan_t2v_gateway_oldest_queued_seconds"] > 0
    assert told["wan_t2v_gateway_stored_bytes"] == 6
    assert told["wan_t2v_gateway_queue_paused"] == 0
    assert told['wan_t2v_gateway_webhook_attempts_total{result="delivered"}'] == 0


def test_jobs_are_counted_by_their_owners_class(start: Start, database_url: str, capsys: Any) -> None:
    from wan_t2v_gateway.__main__ import main

    gateway = start(workers=0)
    assert main(["--database-url", database_url, "keys", "make", "anna", "--class", "trial"]) == 0
    key = {"authorization": f"Bearer {capsys.readouterr().out.strip()}"}
    gateway.http.post("/v1/videos", json={"prompt": "x"}, headers=key)
    told = samples(gateway)
    assert told['wan_t2v_gateway_jobs{status="queued",class="trial"}'] == 1
    assert told['wan_t2v_gateway_jobs{status="queued",class="local"}'] == 0


def test_a_histogram_counts_what_is_below_each_bound() -> None:
    histogram = Histogram("x_seconds", "x", (1, 5))
    for seconds in (0.5, 1, 3, 7):
        histogram.observe(seconds)
    assert [line for line in histogram.lines() if line[0] != "#"] == [
        'wan_t2v_gateway_x_seconds_bucket{le="1"} 2',
        'wan_t2v_gateway_x_seconds_bucket{le="5"} 3',
        'wan_t2v_gateway_x_seconds_bucket{le="+Inf"} 4',
        "wan_t2v_gateway_x_seconds_sum 11.5",
        "wan_t2v_gateway_x_seconds_count 4",
    ]
    assert sample("x", 1, a='"\\\n') == 'wan_t2v_gateway_x{a="\\"\\\\\\n"} 1'


def test_every_metric_is_in_the_table_with_its_type(start: Start) -> None:
    told = re.findall(r"^# TYPE (\w+) (\w+)$", start(workers=0).http.get("/metrics").text, re.MULTILINE)
    rows = re.findall(r"^\| `(wan_t2v_gateway_\w+)` \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == told and len(told) > 5
