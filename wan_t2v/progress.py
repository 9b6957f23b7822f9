"""How far a generation is: what the streaming endpoint tells after each step."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from wan_t2v.denoise import Step


@dataclass(frozen=True)
class Progress:
    """A finished step and what is left of the loop.

    Attributes:
        step, num_inference_steps: the `step`-th (from 1) of so many.
        timestep, expert: where it was on the schedule, and who ran it.
        step_s: seconds it took.
        left_s: estimated seconds for the steps that are left, from the mean of those that are done.
    """

    step: int
    num_inference_steps: int
    timestep: int
    expert: str
    step_s: float
    left_s: float

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))


@dataclass
class StepClock:
    """Times the steps of one generation; `now` gives seconds on any steady clock."""

    now: Callable[[], float] = time.monotonic
    _started: float = field(init=False)
    _last: float = field(init=False)
    _first: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._started = self._last = self.now()

    def after(self, step: Step) -> Progress:
        """The progress after `step`, which ended now."""
        ended = self.now()
        step_s, self._last = ended - self._last, ended
        self._first = step.index if self._first is None else self._first  # not 1 for one that was taken up again
        mean_s = (ended - self._started) / (step.index - self._first + 1)
        return Progress(
            step=step.index,
            num_inference_steps=step.count,
            timestep=step.timestep,
            expert=step.expert,
            step_s=round(step_s, 4),
            left_s=round(mean_s * (step.count - step.index), 3),
        )
