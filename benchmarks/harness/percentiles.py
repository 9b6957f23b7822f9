"""Percentiles of durations by nearest rank: always a measured value, without interpolation."""

import math
from collections.abc import Iterable, Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of the values do not exceed.

    Raises ValueError without values, or for a percentage outside (0, 100].
    """
    if not values or not 0 < percent <= 100:
        raise ValueError(f"no {percent}th percentile of {len(values)} values")
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def summary(values: Iterable[float], *, digits: int = 4) -> dict[str, float] | None:
    """Return count, mean, median, 90th and 99th percentile and maximum, in the values' unit. None without values."""
    numbers = list(values)
    if not numbers:
        return None
    figures = {"mean": sum(numbers) / len(numbers), **{f"p{p}": percentile(numbers, p) for p in (50, 90, 99)}}
    return {"count": len(numbers), **{n: round(v, digits) for n, v in {**figures, "max": max(numbers)}.items()}}
