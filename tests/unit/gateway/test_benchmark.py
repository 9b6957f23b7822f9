"""`make bench-gateway` measures what it says, and draws it."""

from pathlib import Path
from typing import Any

from gateway.benchmark import measure
from gateway.benchmark.plot import plot

SPREAD = {"p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0}


def test_what_the_gateway_adds_is_measured_between_two_moments_of_each_video() -> None:
    result = measure.added_to_a_video(measure.video_of(None), 2)
    before, after = result["post_to_first_step_event"], result["last_frame_to_completed_event"]
    assert result["videos"] == 2 and 0 < result["post_to_server_called"]["p50_ms"] < before["p50_ms"]
    assert 0 < after["p50_ms"] <= after["p99_ms"] <= after["max_ms"]


def test_the_picture_holds_every_figure(tmp_path: Path) -> None:
    result: dict[str, Any] = {
        "quick": True,
        "goals_ms": {"post_to_first_step_event": 50, "last_frame_to_completed_event": 150, "get": 50},
        "added_to_a_video": {"post_to_first_step_event": SPREAD, "last_frame_to_completed_event": SPREAD},
        "queue_alone": {"created_per_s": 1.0, "done_per_s": 2.0},
        "reading": {"records": 10_000, "get_one": SPREAD, "get_list": SPREAD},
        "many_streams": {"streams": 200, "step_to_event": SPREAD, "get_meanwhile": SPREAD},
    }
    plot(result, tmp_path / "gateway.png")
    assert (tmp_path / "gateway.png").read_bytes().startswith(b"\x89PNG")
