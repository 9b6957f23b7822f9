"""Estimated duration of a generation, from the steps that this server measured lately."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from wan_t2v.field_checks.ranges import MAX_STEPS
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.request import Settings
from wan_t2v.shapes import VideoShape
from wan_t2v.step_profiles.profile import EXACT, StepProfile

FILE = "pace.json"
SHARES_FILE = "computed_shares.json"
LARGEST_FILE = "largest_clip.json"
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


NO_WORKLOAD = Workload(1, 1, 1, 1, guided=False)


def publish_largest(run: RunDirectory, clips: Iterable[VideoShape]) -> None:
    """Publish the size of the largest served clip to the endpoints."""
    run.write_json(LARGEST_FILE, {"pixels": max(clip.frames * clip.height * clip.width for clip in clips)})


def expected_workload(work: Workload, run: RunDirectory) -> Workload:
    """Return the workload, or NO_WORKLOAD if it is larger than any served clip: `prepare` will reject such a request.

    Until then it may wait in the queue, and its seconds must not count for the requests behind it.
    """
    largest = (run.read_json(LARGEST_FILE) or {}).get("pixels")
    too_large = isinstance(largest, int) and work.size > largest
    return NO_WORKLOAD if too_large or work.num_inference_steps > MAX_STEPS else work


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


class DurationEstimator:
    """Measured seconds, kept in the run directory for every process of both endpoints. `now` is a steady clock."""

    def __init__(self, run: RunDirectory, now: Callable[[], float] = time.monotonic) -> None:
        self._run, self._now = run, now

    def estimate_s(self, work: Workload) -> float | None:
        """Estimate the seconds that a generation takes once it runs; None if nothing was measured lately.

        The estimate scales the nearest measured size in proportion to the pixels. It is too short for much larger
        clips, since attention grows faster.
        """
        known = [entry for entry in self._entries().values() if self._now() - entry.at < VALID_S]
        if not known:
            return None
        nearest = min(known, key=lambda entry: (abs(math.log(entry.size / work.size)), entry.passes != work.passes))
        size = work.size / nearest.size
        step_s = nearest.step_s * size * work.passes / nearest.passes
        passes_s = step_s * max(0, work.num_inference_steps) * self._computed_share(work)
        return passes_s + (nearest.after_s or 0.0) * size

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

    def record_passes(self, work: Workload, computed: int) -> None:
        """Record how many passes a whole generation computed, for later ones with its profile."""
        if work.profile.is_exact:
            return
        share = computed / (work.num_inference_steps * work.passes)
        with self._run.exclusive():
            shares = self._shares()
            known = shares.pop(work.profile_name, share)  # inserted last again, since the newest are kept
            shares[work.profile_name] = _mix(known, share)
            self._run.write_json(SHARES_FILE, dict(list(shares.items())[-MOST_PROFILES:]))

    def _computed_share(self, work: Workload) -> float:
        """Estimate the share of passes that are computed: as measured for the profile, else as it predicts."""
        if work.profile.is_exact:
            return 1.0
        return self._shares().get(work.profile_name, work.profile.expected_share(guided=work.guided))

    def _shares(self) -> dict[str, float]:
        """Read the shares by profile, without the entries that are damaged."""
        found = self._run.read_json(SHARES_FILE) or {}
        return {name: share for name, share in found.items() if isinstance(share, float) and 0.0 < share <= 1.0}

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


def _mix(known: float, new: float) -> float:
    return known + SMOOTHING * (new - known)
