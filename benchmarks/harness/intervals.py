"""Intervals in which engines ran, and the idle time between them."""

from collections.abc import Iterable
from pathlib import Path

Interval = tuple[int, int]  # start and end, nanoseconds of the monotonic clock


def read_intervals(folder: Path, *, graph: str = "") -> list[Interval]:
    """Read all intervals that the engines logged in `folder`, or those of the graphs whose name begins with `graph`."""
    lines = (line for path in folder.glob(f"{graph}*.txt") for line in path.read_text(encoding="ascii").splitlines())
    return [(int(start), int(end)) for start, end in (line.split() for line in lines)]


def gaps_ns(intervals: Iterable[Interval], span: Interval) -> list[int]:
    """Return the lengths of the gaps in `span` between intervals, in order. The last gap ends with the span."""
    gaps, reached = [], span[0]
    for start, end in sorted(intervals):
        if end <= reached or start >= span[1]:
            continue
        if start > reached:
            gaps.append(start - reached)
        reached = min(end, span[1])
    return [*gaps, span[1] - reached]


def covered_ns(intervals: Iterable[Interval], span: Interval) -> int:
    """Return the length of the intervals' union within `span`. Overlapping passes count once."""
    return span[1] - span[0] - sum(gaps_ns(intervals, span))
