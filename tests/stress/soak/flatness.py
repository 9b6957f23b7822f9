"""Flatness test of a series of samples.

The median of the last quarter is compared with that of the second. The first quarter is ignored, since allocators,
caches and threads grow to the needs of the load. Medians are robust to spikes. The middles of the two quarters are half
a run apart, so a leak of `r` per minute is detected in a run of `m` minutes if `r * m / 2` exceeds the allowance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

LEAST_SAMPLES = 8


@dataclass(frozen=True)
class Judged:
    """Judgement of a series: medians of its second and last quarter, and the allowed rise."""

    name: str
    second_quarter: float
    last_quarter: float
    allowed_rise: float

    @property
    def is_flat(self) -> bool:
        """Whether the rise is within the allowance. A fall is flat too."""
        return self.last_quarter - self.second_quarter <= self.allowed_rise

    @property
    def fault(self) -> str | None:
        """Description of the rise. None for a flat series."""
        if self.is_flat:
            return None
        return (
            f"{self.name} is not flat: {self.second_quarter:g} in the second quarter, {self.last_quarter:g} in the "
            f"last, allowed are {self.allowed_rise:g} more"
        )


def judged(name: str, series: Sequence[float], *, allowed: float, allowed_share: float = 0.0) -> Judged:
    """Judge a series. The allowed rise is `allowed` or a share of the second quarter's median, the larger of both.

    Raises ValueError for too few samples.
    """
    if len(series) < LEAST_SAMPLES:
        raise ValueError(f"{name}: {len(series)} samples, at least {LEAST_SAMPLES} are needed; let it run longer")
    quarter = len(series) // 4
    second, last = median(series[quarter : 2 * quarter]), median(series[-quarter:])
    return Judged(name, second, last, round(max(allowed, allowed_share * second), 2))
