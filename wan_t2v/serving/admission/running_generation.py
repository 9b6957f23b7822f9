"""A running generation's seconds: those that are left, and the measured ones for later estimates."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from wan_t2v.operate.run_directory import Slot
from wan_t2v.serving.admission.estimate import DurationEstimator
from wan_t2v.serving.admission.options import QueueOptions

if TYPE_CHECKING:
    from wan_t2v.denoise import Step

LEAST_PASSES = 4  # of a part of a generation, to estimate others by


class RunningGeneration:
    """A running generation. It reports its remaining seconds, and its durations improve later estimates."""

    def __init__(self, slot: Slot, options: QueueOptions, *, now: Callable[[], float]) -> None:
        self._slot, self._options, self._now = slot, options, now
        self._began = self._first_step = self._last_step = now()
        self._passes, self._first_passes, self._steps, self._reused_steps = 0, 0, 0, 0
        self._ended: float | None = None

    def report_step(self, step: "Step") -> None:
        """Record a finished step, and report the seconds left in the slot."""
        self._passes += step.passes
        self._steps += 1
        self._reused_steps += step.reused
        self._last_step = self._now()
        if self._steps == 1:
            self._first_step, self._first_passes = self._last_step, step.passes
        with suppress(OSError):  # a failed report must not fail the video
            self._slot.report(replace(self._slot.info, left_s=self._left_s(step), reported_at=self._last_step))

    @property
    def expected_left_s(self) -> float | None:
        """Seconds left by the last report, at first that of the admission; None if unknown."""
        return self._slot.info.left_at(self._now())

    def _left_s(self, step: "Step") -> float | None:
        """Estimate the seconds left after this step.

        The time before the first step's end may include loading an expert, so it only counts while nothing else is
        known.
        """
        if self._later_passes:
            return self._later_pass_s * step.passes_left
        if (expected_s := self._slot.info.left_at(self._last_step)) is not None or not self._passes:
            return expected_s
        return self._pass_s * step.passes_left

    @property
    def _later_passes(self) -> int:
        return self._passes - self._first_passes

    @property
    def _later_pass_s(self) -> float:
        """Seconds per pass after the first step."""
        return (self._last_step - self._first_step) / self._later_passes

    @property
    def _pass_s(self) -> float:
        """Seconds per pass of the whole generation, with what is loaded for it."""
        return (self._last_step - self._began) / self._passes

    def finish(self) -> None:
        """Record the end of the generation."""
        self._ended = self._now()

    def record_duration(self, estimator: DurationEstimator, *, sees_the_end: bool) -> None:
        """Pass the measured durations to the estimator.

        A generation that was resumed or cancelled has its loading in few passes, so it counts without its first step,
        and not at all after less than LEAST_PASSES more.
        """
        work = self._options.work
        is_whole = self._passes > 0 and self._steps == work.num_inference_steps
        if is_whole or self._later_passes >= LEAST_PASSES:
            step_s = (self._pass_s if is_whole else self._later_pass_s) * work.passes
            after_s = self._ended - self._last_step if self._ended is not None and sees_the_end else None
            estimator.record(work, step_s=step_s, after_s=after_s)
        if is_whole:
            estimator.record_passes(work, passes=self._passes, reused_steps=self._reused_steps)
