"""Step profiles: which of the experts' passes a generation may skip. Standard library only."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

EXACT_NAME = "exact"
CUSTOM_NAME = "custom"  # a profile of raw values that the request has
LEAST_STEPS = 16  # with fewer steps, nearly every one must be computed
EXPECTED_REUSE = 0.5  # assumed share of the reusable steps, before any is measured
_LEAST_AFTER_SWITCH = 2  # the cache needs two computed steps to know how fast an expert's velocity changes


@dataclass(frozen=True)
class StepProfile:
    """Passes that a generation may skip. The default skips none.

    Attributes:
        step_cache: EasyCache's threshold (arXiv 2507.02860): a step reuses the last computed result while the velocity
            is estimated to have changed by less than this share since then; 0 for never.
        guidance_skip: share of the low-noise steps, counted from the end, without a negative pass; 0 for none.
        static_reuse: number of steps after each computed one that reuse its result unconditionally; 0 for none.
        warm_up: share of all steps, counted from the start, that are always computed.
        after_switch: number of first steps of each expert that are always computed.
        last_steps: number of last steps that are always computed.
        longest_reuse: most steps in a row that `step_cache` lets reuse one result.
    """

    step_cache: float = 0.0
    guidance_skip: float = 0.0
    static_reuse: int = 0
    warm_up: float = 0.2
    after_switch: int = _LEAST_AFTER_SWITCH
    last_steps: int = 2
    longest_reuse: int = 2

    @property
    def reuses_steps(self) -> bool:
        """Whether a step may reuse an earlier one's result."""
        return self.step_cache > 0 or self.static_reuse > 0

    @property
    def is_exact(self) -> bool:
        """Whether every pass of every step is computed."""
        return not self.reuses_steps and self.guidance_skip == 0

    def warm_up_steps(self, steps: int) -> int:
        """Return the number of warm-up steps in a generation of `steps` steps."""
        return part_of(self.warm_up, steps)

    def reusable_steps(self, steps: int, *, done: int = 0) -> int:
        """Return the fewest steps that may reuse a result, of `steps` steps without the first `done`.

        Warm-up and the high-noise expert's first steps overlap. The low-noise expert's first steps are counted as
        neither warm-up nor last steps: where a request's switch lies is not known here.
        """
        first = max(self.warm_up_steps(steps), self.after_switch)
        return max(0, steps - max(first, done) - self.after_switch - self.last_steps)

    def most_reused(self, reusable: int) -> int:
        """Return how many of `reusable` steps in a row can reuse a result: between runs of them one is computed."""
        return reusable - reusable // ((self.static_reuse or self.longest_reuse) + 1)

    @classmethod
    def parse(cls, raw: Any) -> "StepProfile":
        """Read a named profile of `serving_defaults.json`. Raises ValueError naming the value that is wrong."""
        if not isinstance(raw, Mapping):
            raise ValueError(f"{raw!r}, accepted: an object with any of {', '.join(_names())}")
        if unknown := sorted(raw.keys() - _names()):
            raise ValueError(f"{unknown[0]} is unknown, accepted: {', '.join(_names())}")
        profile = cls(**raw)
        for name, value in asdict(profile).items():
            _check(name, value)
        profile._check_together()
        return profile

    def _check_together(self) -> None:
        if self.step_cache and self.static_reuse:
            raise ValueError("step_cache and static_reuse are both set, accepted: one of them, the other 0")
        if not self.reusable_steps(LEAST_STEPS):
            raise ValueError(
                f"warm_up, after_switch (of both experts) and last_steps leave nothing of {LEAST_STEPS} steps to reuse"
            )
        if self.is_exact:
            raise ValueError("no pass is left out, accepted: a step_cache, static_reuse or guidance_skip above 0")


def part_of(share: float, steps: int) -> int:
    """Return a share of `steps`, rounded up. Rounding to 5 digits first removes the error of single precision."""
    return math.ceil(round(share * steps, 5))


EXACT = StepProfile()
_LEAST = {"after_switch": _LEAST_AFTER_SWITCH, "longest_reuse": 1}


def _names() -> list[str]:
    return [field.name for field in fields(StepProfile)]


def _check(name: str, value: Any) -> None:
    whole = isinstance(getattr(EXACT, name), int)
    accepted = int if whole else (int, float)
    least = _LEAST.get(name, 0)
    good = isinstance(value, accepted) and not isinstance(value, bool) and (whole or 0.0 <= value <= 1.0)
    if not good or value < least:
        raise ValueError(f"{name} is {value!r}, accepted: " + (f"{least} or more" if whole else "a number from 0 to 1"))
