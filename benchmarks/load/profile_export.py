"""Read perf_analyzer's `--profile-export-file`: the time and kind of each response of each request.

perf_analyzer's own table has one latency per request, and for a decoupled model says that it is the first response's;
the streaming endpoint's first response is a sign of life and not the video. Seen with 2.51: its table then has the last
response's after all, its throughput counts the rest of a measurement window in which nothing was asked, and the file
is no valid JSON, since it holds the MP4's bytes as they are. So the times are taken from here.
"""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.percentiles import summary

STEP, END = "progress", "metadata"  # outputs that only a step's answer, and only the last answer, fill


class ExportError(Exception):
    """The file does not hold what was measured; the message says what is wrong."""


@dataclass(frozen=True)
class ExportedRequest:
    """When a request was sent, and its responses: nanoseconds of the same clock, and what each was.

    `kinds` has `progress` for a step, `metadata` for the last answer, with the video, and "" for anything else.
    """

    sent_ns: int
    responses_ns: tuple[int, ...]
    kinds: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether the last answer came, and last."""
        return bool(self.kinds) and self.kinds[-1] == END

    def seconds_to(self, index: int) -> float:
        """From sending to a response."""
        return (self.responses_ns[index] - self.sent_ns) / 1e9

    @property
    def step_gaps_s(self) -> list[float]:
        """From step to step."""
        steps = [at for at, kind in zip(self.responses_ns, self.kinds, strict=True) if kind == STEP]
        return [(after - before) / 1e9 for before, after in zip(steps, steps[1:], strict=False)]


def read_requests(path: Path) -> list[ExportedRequest]:
    """All requests of a file with one experiment. Raises ExportError."""
    try:
        text = path.read_bytes().decode("latin-1")  # any byte is a character, and no text in it is needed
        [experiment] = json.loads(text, strict=False)["experiments"]
        return [_request(request) for request in experiment["requests"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path} is no profile export of one experiment: {type(error).__name__}: {error}") from error


def _request(raw: Mapping[str, Any]) -> ExportedRequest:
    times, outputs = raw["response_timestamps"], raw["response_outputs"]
    if len(times) != len(outputs):
        raise ValueError(f"a request has {len(times)} times and {len(outputs)} responses")
    return ExportedRequest(raw["timestamp"], tuple(times), tuple(map(_kind, outputs)))


def _kind(outputs: Mapping[str, Any]) -> str:
    return next((name for name in (END, STEP) if outputs.get(name)), "")


def figures(requests: list[ExportedRequest]) -> dict[str, Any]:
    """Seconds to the first response, to the video and from step to step; videos a second from first to last.

    Raises ExportError if a request did not get its video.
    """
    failed = sum(not request.whole for request in requests)
    if failed or not requests:
        raise ExportError(f"{failed} of {len(requests)} requests ended without a video; the server's log says why")
    last_ns = max(request.responses_ns[-1] for request in requests)
    span_s = (last_ns - min(request.sent_ns for request in requests)) / 1e9
    return {
        "requests": len(requests),
        "responses": statistics.median_low(len(request.kinds) for request in requests),
        "videos_per_s": round(len(requests) / span_s, 4),
        "latency_s": summary(request.seconds_to(-1) for request in requests),
        "first_response_s": summary(request.seconds_to(0) for request in requests),
        "first_to_last_s": summary((r.responses_ns[-1] - r.responses_ns[0]) / 1e9 for r in requests),
        "step_gap_s": summary(gap for request in requests for gap in request.step_gaps_s),
    }
