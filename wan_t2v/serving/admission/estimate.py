"""Estimated duration of a generation, from the steps that this server measured lately."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.request import Settings
from wan_t2v.step_profiles.profile import EXACT, EXPECTED_REUSE, StepProfile

FILE = "pace.json"
SHARES_FILE = "computed_shares.json"
SMOOTHING = 0.3  # weight of the newest generation in a mean
# An estimate can reject requests, and then nothing new is measured. So a measurement expires.
VALID_S = 600.0
MOST_SIZES = 64  # callers may request ever new sizes; the newest are kept
MOST_PROFILES = 32


@dataclass(frozen=True)
class Workload:
    """Properties that a generation's duration depends on: clip size, steps, guidance and step profile."""

    height: int
    width: int
    num_frames: int
    num_inference_steps: int
    guided: bool
    profile: StepProfile = EXACT

    @classmethod
    def of(cls, settings: Settings) -> "Workload":
        """Return the workload of settings."""
        video, steps = settings.video_shape, settings.num_inference_steps
        return cls(video.height, video.width, video.frames, steps, guided=settings.guided, profile=settings.profile)

    @property
    def size(self) -> float:
        """Pixels of the whole clip, a measure for the time of a step and of decoding."""
        return float(max(1, self.height) * max(1, self.width) * max(1, self.num_frames))

    @property
    def passes(self) -> int:
        """Forward passes per step."""
        return 2 if self.guided else 1

    @property
    def profile_name(self) -> str:
        """Name of the rules by which passes are skipped; workloads with the same rules share it."""
        return f"{self.profile} {'guided' if self.guided else 'unguided'}"

    def __str__(self) -> str:
        return f"{self.num_inference_steps} steps of {self.height}x{self.width}x{self.num_frames}"


@dataclass(frozen=True)
class Measured:
    """Means of recent generations of one size: seconds per computed step, and seconds after the last step.

    `after_s` is None if the process did not see the end: the unary endpoint decodes in another model.
    """

    size: float
    passes: int
    step_s: float
    after_s: float | None
    at: float


@dataclass(frozen=True)
class ComputedShares:
    """Mean shares of recent generations of one step profile, which depend little on the number of steps.

    Attributes:
        reused: share of the reusable steps that reused a result.
        passes: passes of the computed steps, as a share of those with a negative pass in each.
    """

    reused: float
    passes: float

    @classmethod
    def expected(cls, work: Workload) -> "ComputedShares":
        """Guess the shares before any are measured; half of the steps are taken to be low-noise ones."""
        skipped = work.profile.guidance_skip / 4 if work.guided else 0.0
        return cls(EXPECTED_REUSE if work.profile.reuses_steps else 0.0, 1.0 - skipped)

    @classmethod
    def measured(cls, work: Workload, *, passes: int, reused_steps: int) -> "ComputedShares":
        """Return the shares of a whole generation."""
        steps = work.num_inference_steps
        reused = reused_steps / max(1, work.profile.reusable_steps(steps))
        return cls(min(1.0, reused), passes / ((steps - reused_steps) * work.passes))

    def computed_steps(self, work: Workload, *, done: int) -> float:
        """Estimate the computed steps after the first `done`; one with a skipped pass counts as a part of a step."""
        reusable = work.profile.reusable_steps(work.num_inference_steps, done=done)
        reused = min(self.reused * reusable, work.profile.most_reused(reusable))
        return (max(0, work.num_inference_steps - done) - reused) * self.passes


class DurationEstimator:
    """Measured seconds, kept in the run directory for every process of both endpoints. `now` is a steady clock."""

    def __init__(self, run: RunDirectory, now: Callable[[], float] = time.monotonic) -> None:
        self._run, self._now = run, now

    def estimate_s(self, work: Workload, *, steps_done: int = 0) -> float | None:
        """Estimate the seconds that a generation takes once it runs; None if nothing was measured lately.

        A generation that is resumed goes on after `steps_done` steps. The estimate scales the nearest measured size in
        proportion to the pixels. It is too short for much larger clips, since attention grows faster.
        """
        known = [entry for entry in self._entries().values() if self._now() - entry.at < VALID_S]
        if not known:
            return None
        nearest = min(known, key=lambda entry: (abs(math.log(entry.size / work.size)), entry.passes != work.passes))
        size = work.size / nearest.size
        step_s = nearest.step_s * size * work.passes / nearest.passes
        return step_s * self._computed_steps(work, done=steps_done) + (nearest.after_s or 0.0) * size

    def record(self, work: Workload, *, step_s: float, after_s: float | None) -> None:
        """Record a generation's seconds per computed step, and the seconds after its last step if they are known."""
        with self._run.exclusive():
            entries = self._entries()
            name = f"{work.height}x{work.width}x{work.num_frames} {work.passes}"
            known = entries.get(name)
            if known is not None and self._now() - known.at < VALID_S:
                step_s = _mix(known.step_s, step_s)
                after_s = known.after_s if after_s is None else _mix(known.after_s or after_s, after_s)
            entries[name] = Measured(work.size, work.passes, step_s, after_s, self._now())
            valid = [item for item in entries.items() if self._now() - item[1].at < VALID_S]
            newest = sorted(valid, key=lambda item: item[1].at)[-MOST_SIZES:]
            self._run.write_json(FILE, {name: vars(entry) for name, entry in newest})

    def record_passes(self, work: Workload, *, passes: int, reused_steps: int) -> None:
        """Record what a whole generation computed, for later ones with its profile."""
        if work.profile.is_exact:
            return
        new = ComputedShares.measured(work, passes=passes, reused_steps=reused_steps)
        with self._run.exclusive():
            shares = self._shares()
            known = shares.pop(work.profile_name, new)  # inserted last again, since the newest are kept
            mean = ComputedShares(_mix(known.reused, new.reused), _mix(known.passes, new.passes))
            newest = list({**shares, work.profile_name: mean}.items())[-MOST_PROFILES:]
            self._run.write_json(SHARES_FILE, {name: vars(entry) for name, entry in newest})

    def _computed_steps(self, work: Workload, *, done: int) -> float:
        if work.profile.is_exact:
            return float(max(0, work.num_inference_steps - done))
        shares = self._shares().get(work.profile_name) or ComputedShares.expected(work)
        return shares.computed_steps(work, done=done)

    def _shares(self) -> dict[str, ComputedShares]:
        """Read the shares by profile, without the entries that are damaged."""
        found = {name: _parse_shares(entry) for name, entry in (self._run.read_json(SHARES_FILE) or {}).items()}
        return {name: entry for name, entry in found.items() if entry is not None}

    def _entries(self) -> dict[str, Measured]:
        """Read the measurements by size and passes, without the entries that are damaged."""
        found = {name: _parse_measured(entry) for name, entry in (self._run.read_json(FILE) or {}).items()}
        return {name: entry for name, entry in found.items() if entry is not None}


def _parse_measured(entry: Any) -> Measured | None:
    try:
        measured = Measured(**entry)
        numbers = (measured.size, measured.passes, measured.step_s, measured.after_s or 0.0, measured.at)
        positive = measured.size > 0 and measured.passes > 0 and all(math.isfinite(number) for number in numbers)
    except TypeError:
        return None
    return measured if positive else None


def _parse_shares(entry: Any) -> ComputedShares | None:
    try:
        shares = ComputedShares(**entry)
        return shares if 0.0 <= shares.reused <= 1.0 and 0.0 < shares.passes <= 1.0 else None
    except TypeError:
        return None


def _mix(known: float, new: float) -> float:
    return known + SMOOTHING * (new - known)
