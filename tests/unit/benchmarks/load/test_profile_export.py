"""Two files that perf_analyzer 2.51 wrote for four steps of wan-mini; the videos in them were cut short, no more."""

import json
from pathlib import Path

import pytest

from benchmarks.load.perf_analyzer import ENDPOINTS, command_line
from benchmarks.load.profile_export import END, STEP, ExportError, figures, read_requests

RECORDED = Path(__file__).parent / "recorded"


def test_the_recorded_file_is_no_valid_json_and_is_read_all_the_same() -> None:
    with pytest.raises(UnicodeDecodeError):
        json.loads((RECORDED / "stream.json").read_bytes())
    requests = read_requests(RECORDED / "stream.json")
    assert [request.kinds for request in requests] == [("", STEP, STEP, STEP, STEP, END)] * 3


def test_the_end_of_a_stream_is_its_last_response_and_not_its_first() -> None:
    found = figures(read_requests(RECORDED / "stream.json"))
    assert found["responses"] == 6
    assert found["latency_s"] == {
        "count": 3,
        "mean": 0.4969,
        "p50": 0.5281,
        "p90": 0.5341,
        "p99": 0.5341,
        "max": 0.5341,
    }
    assert found["first_response_s"]["max"] == 0.0045
    assert found["first_to_last_s"]["p50"] == 0.5236
    assert found["step_gap_s"]["count"] == 9
    assert found["videos_per_s"] == 2.012  # three in 1.491 s; perf_analyzer's table says 1.497 a second


def test_an_empty_mark_of_the_end_after_the_video_is_no_response(tmp_path: Path) -> None:
    raw = json.loads((RECORDED / "stream.json").read_bytes().decode("latin-1"), strict=False)
    for request in raw["experiments"][0]["requests"]:
        request["response_timestamps"].append(request["response_timestamps"][-1] + 10**9)
        request["response_outputs"].append({})
    (tmp_path / "export.json").write_text(json.dumps(raw))
    assert figures(read_requests(tmp_path / "export.json")) == figures(read_requests(RECORDED / "stream.json"))


def test_a_unary_answer_is_its_own_first_and_last() -> None:
    found = figures(read_requests(RECORDED / "unary.json"))
    assert found["latency_s"] == found["first_response_s"]
    assert found["first_to_last_s"]["max"] == 0.0
    assert found["step_gap_s"] is None


def test_a_request_without_its_video_is_no_figure(tmp_path: Path) -> None:
    raw = json.loads((RECORDED / "stream.json").read_bytes().decode("latin-1"), strict=False)
    request = raw["experiments"][0]["requests"][1]
    del request["response_timestamps"][3:], request["response_outputs"][3:]
    (tmp_path / "export.json").write_text(json.dumps(raw))
    with pytest.raises(ExportError, match="1 of 3 requests ended without a video"):
        figures(read_requests(tmp_path / "export.json"))
    with pytest.raises(ExportError, match="0 of 0"):
        figures([])


@pytest.mark.parametrize(
    "text", ["", "{}", '{"experiments": []}', '{"experiments": [{"requests": [{"timestamp": 1}]}]}']
)
def test_another_file_is_refused_by_its_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(text)
    with pytest.raises(ExportError, match=r"export\.json is no profile export"):
        read_requests(tmp_path / "export.json")


def test_slow_requests_are_counted_and_not_timed_and_the_stream_is_asked_as_one() -> None:
    unary, stream = (
        command_line(endpoint, "h:1", concurrency=2, requests=5, inputs=Path("i.json")) for endpoint in ENDPOINTS
    )
    for command in (unary, stream):
        assert "--request-count=6" in command, "a multiple of the concurrency"
        assert "--warmup-request-count=2" in command
        assert not any("interval" in word for word in command)
    assert not {"--streaming", "--async"} & set(unary)
    assert {"--streaming", "--async", "text_to_video_stream"} <= set(stream)
