"""Generate each prompt in each way, side by side, and compare with `exact`."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wan_t2v_client import TextToVideo

from benchmarks.quality.frame_difference import FrameDifference, Frames

EXACT = "exact"
OTHER_SEED = "another seed"  # of `exact`: how far two videos of one prompt are apart anyway
_SEEDS_BETWEEN = 1_000_003


@dataclass(frozen=True)
class Way:
    """How clips are made: the server, and fields of the requests to it."""

    client: TextToVideo
    fields: Mapping[str, Any]

    def generate(self, text: str, seed: int) -> "Clip":
        """Make one clip."""
        started = time.monotonic()
        answer = self.client.generate(text, seed=seed, output_type="frames", **self.fields)
        seconds = time.monotonic() - started
        assert answer.frames is not None  # it is what was asked for
        return Clip(answer.frames, seconds, sum(answer.metadata["passes"]))


@dataclass(frozen=True)
class Clip:
    """One video: its frames, seconds from call to answer, and passes of the experts."""

    frames: Frames
    seconds: float
    passes: int


@dataclass
class WayClips:
    """What was made in one way, a figure per prompt."""

    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    differences: list[FrameDifference] = field(default_factory=list)
    frames: list[Frames] = field(default_factory=list)

    def add(self, clip: Clip, exact: Clip, *, keep: bool) -> None:
        """Take a prompt's clip; its frames only where somebody judges them."""
        self.seconds.append(clip.seconds)
        self.ratios.append(clip.seconds / exact.seconds)
        self.passes.append(clip.passes)
        self.differences.append(FrameDifference.between(clip.frames, exact.frames))
        if keep:
            self.frames.append(clip.frames)

    def row(self) -> dict[str, float]:
        """Medians of seconds, means of the rest."""
        return {
            "passes": round(statistics.mean(self.passes), 1),
            "seconds": round(statistics.median(self.seconds), 3),
            "ratio": round(statistics.median(self.ratios), 3),
            "psnr_db": round(statistics.mean(one.psnr_db for one in self.differences), 2),
            "ssim": round(statistics.mean(one.ssim for one in self.differences), 4),
        }


def profile_ways(client: TextToVideo, profiles: Sequence[str], *, precision: str = "") -> dict[str, Way]:
    """The exact way through one server, and one for each profile, by name; a server in another precision has its name.

    Profiles are names or raw fields (`step_cache=0.05,guidance_skip=0.1`).
    """
    exact = Way(client, profile_fields(EXACT))
    ways = {profile: Way(client, profile_fields(profile)) for profile in profiles}
    if not precision:
        return {EXACT: exact, **ways}
    return {precision: exact, **{f"{precision}, {profile}": way for profile, way in ways.items()}}


def measure(
    ways: Mapping[str, Way], prompts: Sequence[tuple[str, int]], *, keep_frames: bool
) -> Iterator[Mapping[str, WayClips]]:
    """Yield what there is after each prompt. `prompts` are texts with seeds; of the `ways` one is EXACT.

    The order of the ways changes from prompt to prompt, so that none is always the first after a pause.
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
    """The request's fields that a profile's name or its raw fields stand for. Raises ValueError."""
    if "=" not in profile:
        return {"step_profile": profile}
    pairs = (part.partition("=") for part in profile.split(","))
    return {name.strip(): float(value) for name, _, value in pairs}
