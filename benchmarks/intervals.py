"""How much of a span of time no engine ran in."""

from collections.abc import Iterable
from pathlib import Path

Interval = tuple[int, int]  # start and end, nanoseconds of the monotonic clock


def logged_intervals(folder: Path) -> list[Interval]:
    """All intervals that the engines wrote under `folder`."""
    lines = (line for path in folder.glob("*.txt") for line in path.read_text(encoding="ascii").splitlines())
    return [(int(start), int(end)) for start, end in (line.split() for line in lines)]


def covered_ns(intervals: Iterable[Interval], span: Interval) -> int:
    """Length of the union of the intervals within `span`: passes that run at the same time count once."""
    total, reached = 0, span[0]
    for start, end in sorted(intervals):
        start, end = max(start, reached), min(end, span[1])
        if end > start:
            total, reached = total + end - start, end
    return total
