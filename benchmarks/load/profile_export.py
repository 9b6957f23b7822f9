"""Reader of perf_analyzer's `--profile-export-file`: the time and kind of every response of every request.

perf_analyzer's own table has one latency per request. For a decoupled model it states that this is the latency of the
first response, and the streaming endpoint's first response is a heartbeat and not the video. With 2.51 the table has
the last response's latency after all, and its throughput includes idle time at the end of the measurement window. The
file is no valid JSON, since it contains the MP4's raw bytes. The figures are therefore computed here.
"""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.percentiles import summary

STEP, END = "progress", "metadata"  # outputs that only a progress message and only the final response have


class ExportError(Exception):
    """A file that cannot be read or has failed requests. The message says what is wrong."""


@dataclass(frozen=True)
class ExportedRequest:
    """Time of a request and of its responses, in nanoseconds of one clock, and the responses' kinds.

    `kinds` has `progress` for a step, `metadata` for the final response with the video, and "" for any other.
    """

    sent_ns: int
    responses_ns: tuple[int, ...]
    kinds: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether the final response came, after all others."""
        return bool(self.kinds) and self.kinds[-1] == END

    def seconds_to(self, index: int) -> float:
        """Return the seconds from the request to a response."""
        return (self.responses_ns[index] - self.sent_ns) / 1e9

    @property
    def step_gaps_s(self) -> list[float]:
        """Seconds between consecutive progress messages."""
        steps = [at for at, kind in zip(self.responses_ns, self.kinds, strict=True) if kind == STEP]
        return [(after - before) / 1e9 for before, after in zip(steps, steps[1:], strict=False)]


def read_requests(path: Path) -> list[ExportedRequest]:
    """Read all requests of a file with one experiment. Raises ExportError."""
    try:
        text = path.read_bytes().decode("latin-1")  # accepts any byte; no text of the file is needed
        [experiment] = json.loads(text, strict=False)["experiments"]
        return [_request(request) for request in experiment["requests"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path} is no profile export of one experiment: {type(error).__name__}: {error}") from error


def _request(raw: Mapping[str, Any]) -> ExportedRequest:
    times, outputs = raw["response_timestamps"], raw["response_outputs"]
    if len(times) != len(outputs):
        raise ValueError(f"a request has {len(times)} times and {len(outputs)} responses")
    kinds = tuple(map(_kind, outputs))
    if kinds[-2:] == (END, ""):  # Triton's empty mark of the end, where the video came before it
        times, kinds = times[:-1], kinds[:-1]
    return ExportedRequest(raw["timestamp"], tuple(times), kinds)


def _kind(outputs: Mapping[str, Any]) -> str:
    return next((name for name in (END, STEP) if outputs.get(name)), "")


def figures(requests: list[ExportedRequest]) -> dict[str, Any]:
    """Compute throughput, and seconds to the first response, to the video and between steps.

    Throughput counts from the first request to the last response. Raises ExportError if a request got no video.
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
