"""Whether a series of samples is flat.

The median of the last quarter is held against that of the second. The first quarter is left out: allocators, caches and
threads grow to what the load needs. Medians do not mind spikes. The middles of the two quarters are half of the run
apart, so a leak of `r` a minute is seen in a run of `m` minutes if `r * m / 2` is more than is allowed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

LEAST_SAMPLES = 8


@dataclass(frozen=True)
class Judged:
    """A series: medians of its second and last quarter, and how much higher the last may be."""

    name: str
    second_quarter: float
    last_quarter: float
    allowed_rise: float

    @property
    def is_flat(self) -> bool:
        """A fall is flat."""
        return self.last_quarter - self.second_quarter <= self.allowed_rise

    @property
    def fault(self) -> str | None:
        """What to say if it is not."""
        if self.is_flat:
            return None
        return (
            f"{self.name} is not flat: {self.second_quarter:g} in the second quarter, {self.last_quarter:g} in the "
            f"last, allowed are {self.allowed_rise:g} more"
        )


def judged(name: str, series: Sequence[float], *, allowed: float, allowed_share: float = 0.0) -> Judged:
    """Judge a series; the rise may be `allowed` or that share of the second quarter, whichever is more.

    Raises ValueError for too few samples.
    """
    if len(series) < LEAST_SAMPLES:
        raise ValueError(f"{name}: {len(series)} samples, at least {LEAST_SAMPLES} are needed; let it run longer")
    quarter = len(series) // 4
    second, last = median(series[quarter : 2 * quarter]), median(series[-quarter:])
    return Judged(name, second, last, round(max(allowed, allowed_share * second), 2))
