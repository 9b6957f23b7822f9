"""Random traffic of the load generator. The same settings and seed give the same traffic."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wan_t2v.shapes import VideoShape


@dataclass(frozen=True)
class Traffic:
    """Settings of a run.

    Attributes:
        requests: number of requests.
        rate_per_s: mean arrivals per second.
        mix: relative frequency of each size.
        cancel_ratio: share of requests that are cancelled, after a step drawn uniformly from all but the last.
    """

    requests: int
    rate_per_s: float
    mix: Mapping[VideoShape, float]
    steps: int
    cancel_ratio: float
    seed: int


@dataclass(frozen=True)
class PlannedRequest:
    """One request: it is sent `arrives_s` after the start, and cancelled after step `leaves_after` (None: never)."""

    arrives_s: float
    size: VideoShape
    prompt: str
    seed: int
    leaves_after: int | None


def plan_requests(traffic: Traffic, prompts: Sequence[str]) -> list[PlannedRequest]:
    """Draw requests with the arrivals of a Poisson process: independent exponential waits with mean 1 / rate."""
    draw = random.Random(traffic.seed)  # noqa: S311 - repeatable on purpose
    sizes, weights = list(traffic.mix), list(traffic.mix.values())
    planned, now = [], 0.0
    for index in range(traffic.requests):
        now += draw.expovariate(traffic.rate_per_s)
        [size] = draw.choices(sizes, weights)
        leaves = draw.random() < traffic.cancel_ratio
        step = draw.randint(1, max(1, traffic.steps - 1))
        planned.append(PlannedRequest(now, size, prompts[index % len(prompts)], index, step if leaves else None))
    return planned


def rate_for(utilisation: float, seconds: Mapping[VideoShape, float], traffic: Traffic) -> float:
    """Return the requests per second that keep a server busy for a share `utilisation` of the time.

    `seconds` is the duration of a request by size. A cancelled request counts as half of that.
    """
    total = sum(traffic.mix.values())
    mean_s = sum(weight / total * seconds[size] for size, weight in traffic.mix.items())
    return utilisation / (mean_s * (1 - traffic.cancel_ratio / 2))


def mix_from_text(text: str) -> dict[VideoShape, float]:
    """Parse `64x64x17=3,96x96x17=1`: height, width, frames, and a weight (default 1). Raises ValueError."""
    return dict(_weighted_size(part) for part in text.split(","))


def _weighted_size(text: str) -> tuple[VideoShape, float]:
    match = re.fullmatch(r"\s*(\d+)x(\d+)x(\d+)(?:=(\d+(?:\.\d+)?))?\s*", text)
    if match is None or not float(match[4] or 1):
        raise ValueError(f"got {text!r}; accepted is height x width x frames and a weight, such as 64x64x17=3")
    height, width, frames = (int(number) for number in match.groups()[:3])
    return VideoShape(frames, height, width), float(match[4] or 1)
