"""Traffic of a load generator, drawn from a seed: the same settings give the same traffic."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wan_t2v.shapes import VideoShape


@dataclass(frozen=True)
class Traffic:
    """Settings of a run.

    Attributes:
        mix: sizes and how often each is asked for, relative to the others.
        cancel_ratio: share of the requests whose caller leaves after a step drawn evenly from all but the last.
    """

    requests: int
    rate_per_s: float
    mix: Mapping[VideoShape, float]
    steps: int
    cancel_ratio: float
    seed: int


@dataclass(frozen=True)
class PlannedRequest:
    """One request: `arrives_s` after the start; its caller leaves after step `leaves_after` (None: never)."""

    arrives_s: float
    size: VideoShape
    prompt: str
    seed: int
    leaves_after: int | None


def plan_requests(traffic: Traffic, prompts: Sequence[str]) -> list[PlannedRequest]:
    """Arrivals of a Poisson process: the waits between them are independent and exponential with mean 1 / rate."""
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
    """Requests a second that keep a server busy `utilisation` of the time, if a request of a size takes `seconds`.

    Of a request whose caller leaves, half is counted.
    """
    total = sum(traffic.mix.values())
    mean_s = sum(weight / total * seconds[size] for size, weight in traffic.mix.items())
    return utilisation / (mean_s * (1 - traffic.cancel_ratio / 2))


def mix_from_text(text: str) -> dict[VideoShape, float]:
    """Read `64x64x17=3,96x96x17=1`: height, width, frames, and a weight (1 if left out). Raises ValueError."""
    return dict(_weighted_size(part) for part in text.split(","))


def _weighted_size(text: str) -> tuple[VideoShape, float]:
    match = re.fullmatch(r"\s*(\d+)x(\d+)x(\d+)(?:=(\d+(?:\.\d+)?))?\s*", text)
    if match is None or not float(match[4] or 1):
        raise ValueError(f"got {text!r}; accepted is height x width x frames and a weight, such as 64x64x17=3")
    height, width, frames = (int(number) for number in match.groups()[:3])
    return VideoShape(frames, height, width), float(match[4] or 1)
