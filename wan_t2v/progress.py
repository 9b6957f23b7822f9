"""Step progress: index, expert, seconds, estimated time left. The streaming endpoint sends it after each step."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from wan_t2v.denoise import Step


@dataclass(frozen=True)
class Progress:
    """A finished step, and an estimate for the remaining ones.

    Attributes:
        step, num_inference_steps: index of the step, from 1, and number of steps.
        timestep, expert: timestep of the step, and the expert that ran it.
        step_s: seconds that the step took.
        left_s: estimated seconds for the remaining steps, from the mean duration of the computed passes. Until one is
            computed it is the estimate of the admission.
        reused: whether the step reused an earlier step's result, so that no expert ran.
    """

    step: int
    num_inference_steps: int
    timestep: float
    expert: str
    step_s: float
    left_s: float
    reused: bool = False

    def to_json(self) -> str:
        """Return the progress as one JSON object."""
        return json.dumps(asdict(self))


@dataclass
class StepClock:
    """Times the steps of one generation; `now` gives seconds on any steady clock."""

    now: Callable[[], float] = time.monotonic
    _started: float = field(init=False)
    _last: float = field(init=False)
    _steps: int = field(init=False, default=0)
    _passes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._started = self._last = self.now()

    def after(self, step: Step, *, expected_left_s: float | None = None) -> Progress:
        """Return the progress after `step`, which has just ended. `expected_left_s` is the admission's estimate."""
        ended = self.now()
        step_s, self._last = ended - self._last, ended
        self._steps += 1  # not the step's index: a resumed generation starts later
        self._passes += step.passes
        left_s = self._left_s(step, elapsed_s=ended - self._started, expected_left_s=expected_left_s or 0.0)
        return Progress(
            step=step.index,
            num_inference_steps=step.count,
            timestep=step.timestep,
            expert=step.expert,
            step_s=round(step_s, 4),
            left_s=round(left_s, 3),
            reused=step.reused,
        )

    def _left_s(self, step: Step, *, elapsed_s: float, expected_left_s: float) -> float:
        """Estimate the seconds left after a step.

        A resumed generation may begin with reused steps, of milliseconds each. The steps to come are not that short.
        """
        if self._passes:
            return elapsed_s / self._passes * step.passes_left
        steps_left = step.count - step.index
        return max(expected_left_s, elapsed_s / self._steps * steps_left) if steps_left else 0.0
