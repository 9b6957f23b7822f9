"""Percentiles of durations, always by nearest rank: a figure that was measured, never one between two."""

import math
from collections.abc import Iterable, Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed. Raises ValueError without any."""
    if not values or not 0 < percent <= 100:
        raise ValueError(f"no {percent}th percentile of {len(values)} values")
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def summary(values: Iterable[float], *, digits: int = 4) -> dict[str, float] | None:
    """Count, mean, median, 90th and 99th percentile and the largest, in the values' unit; None without any."""
    numbers = list(values)
    if not numbers:
        return None
    figures = {"mean": sum(numbers) / len(numbers), **{f"p{p}": percentile(numbers, p) for p in (50, 90, 99)}}
    return {"count": len(numbers), **{n: round(v, digits) for n, v in {**figures, "max": max(numbers)}.items()}}
