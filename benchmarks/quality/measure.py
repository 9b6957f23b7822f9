"""Generate each prompt in each way, and compare the clips with those of `exact`."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wan_t2v_client import TextToVideo

from benchmarks.quality.frame_difference import FrameDifference, Frames

EXACT = "exact"
OTHER_SEED = "another seed"  # of `exact`: the usual difference between two videos of one prompt
_SEEDS_BETWEEN = 1_000_003


@dataclass(frozen=True)
class Way:
    """A way to generate: the client of a server, and the request's fields."""

    client: TextToVideo
    fields: Mapping[str, Any]

    def generate(self, text: str, seed: int) -> "Clip":
        """Generate one clip."""
        started = time.monotonic()
        answer = self.client.generate(text, seed=seed, output_type="frames", **self.fields)
        seconds = time.monotonic() - started
        assert answer.frames is not None  # output_type is frames
        return Clip(answer.frames, seconds, sum(answer.metadata["passes"]))


@dataclass(frozen=True)
class Clip:
    """One video: its frames, the seconds of the call, and the number of expert passes."""

    frames: Frames
    seconds: float
    passes: int


@dataclass
class WayClips:
    """Clips of one way, with one value per prompt. Ratios and differences are to `exact`."""

    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    differences: list[FrameDifference] = field(default_factory=list)
    frames: list[Frames] = field(default_factory=list)

    def add(self, clip: Clip, exact: Clip, *, keep: bool) -> None:
        """Add a prompt's clip. Its frames are kept only with `keep`, for the judge."""
        self.seconds.append(clip.seconds)
        self.ratios.append(clip.seconds / exact.seconds)
        self.passes.append(clip.passes)
        self.differences.append(FrameDifference.between(clip.frames, exact.frames))
        if keep:
            self.frames.append(clip.frames)

    def row(self) -> dict[str, float]:
        """Compute the table row: medians of seconds and ratios, means of the other values."""
        return {
            "passes": round(statistics.mean(self.passes), 1),
            "seconds": round(statistics.median(self.seconds), 3),
            "ratio": round(statistics.median(self.ratios), 3),
            "psnr_db": round(statistics.mean(one.psnr_db for one in self.differences), 2),
            "ssim": round(statistics.mean(one.ssim for one in self.differences), 4),
        }


def profile_ways(client: TextToVideo, profiles: Sequence[str], *, precision: str = "") -> dict[str, Way]:
    """Return the ways through one server, by name: exact, and one per profile.

    With `precision`, the name of another precision, it is part of the ways' names. Profiles are names or request fields
    (`step_cache=0.05,guidance_skip=0.1`). Raises ValueError.
    """
    exact = Way(client, profile_fields(EXACT))
    ways = {profile: Way(client, profile_fields(profile)) for profile in profiles}
    if not precision:
        return {EXACT: exact, **ways}
    return {precision: exact, **{f"{precision}, {profile}": way for profile, way in ways.items()}}


def measure(
    ways: Mapping[str, Way], prompts: Sequence[tuple[str, int]], *, keep_frames: bool
) -> Iterator[Mapping[str, WayClips]]:
    """Yield all clips so far, by way, after each prompt. `prompts` are (text, seed); one of the `ways` is EXACT.

    The order of the ways rotates from prompt to prompt, so that none is always the first.
    """
    clips = {name: WayClips() for name in (EXACT, OTHER_SEED, *(name for name in ways if name != EXACT))}
    for way in ways.values():
        way.generate(*prompts[0])  # a warm-up
    for index, (text, seed) in enumerate(prompts):
        names = list(clips)
        turned = names[index % len(names) :] + names[: index % len(names)]
        made = {name: _made(ways, name, text=text, seed=seed) for name in turned}
        for name, clip in made.items():
            clips[name].add(clip, made[EXACT], keep=keep_frames)
        yield clips


def _made(ways: Mapping[str, Way], name: str, *, text: str, seed: int) -> Clip:
    if name == OTHER_SEED:
        return ways[EXACT].generate(text, seed + _SEEDS_BETWEEN)
    return ways[name].generate(text, seed)


def profile_fields(profile: str) -> dict[str, Any]:
    """Return the request fields for a profile's name or for raw fields. Raises ValueError."""
    if "=" not in profile:
        return {"step_profile": profile}
    pairs = (part.partition("=") for part in profile.split(","))
    return {name.strip(): float(value) for name, _, value in pairs}
