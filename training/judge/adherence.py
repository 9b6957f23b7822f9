"""Adherence: how often a generator's clips match held-out prompts, judged on decoded frames."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from training.contact_sheet import write_contact_sheet
from training.judge.attributes import Verdict, judge
from training.world.prompts import Prompt, fixed_prompts
from training.world.render import Frames

Generate = Callable[[str, int], Frames]  # (prompt, seed) -> decoded frames (T, H, W, 3) uint8
ASPECTS = ("colour", "motion", "shape")
SHEET_COLUMNS = 3


@dataclass(frozen=True)
class Scores:
    """Shares of clips that match their prompt, per aspect and in all three aspects."""

    colour: float
    motion: float
    shape: float
    all_three: float
    prompts: int


@dataclass(frozen=True)
class Adherence:
    """Scores, and the chance level: the same clips judged against the prompts of other clips."""

    scores: Scores
    chance: Scores

    def as_line(self) -> dict[str, object]:
        """Return one flat record with the scores, and the chance level as `chance_colour` and so on."""
        chance = {f"chance_{name}": value for name, value in asdict(self.chance).items() if name != "prompts"}
        return {**asdict(self.scores), **chance}


def measure_adherence(
    generate: Generate, *, sheet: Path | None = None, prompts: Sequence[Prompt] | None = None
) -> Adherence:
    """Generate one clip per prompt, judge the clips, and write the contact sheet if `sheet` is given."""
    prompts = fixed_prompts() if prompts is None else prompts
    return judge_adherence([generate(prompt.text, prompt.seed) for prompt in prompts], prompts, sheet=sheet)


def judge_adherence(clips: Sequence[Frames], prompts: Sequence[Prompt], *, sheet: Path | None = None) -> Adherence:
    """Judge one clip per prompt, and write the contact sheet if `sheet` is given."""
    if sheet is not None:
        write_contact_sheet(sheet, clips, columns=SHEET_COLUMNS)
    return score([judge(clip) for clip in clips], prompts)


def score(verdicts: Sequence[Verdict], prompts: Sequence[Prompt]) -> Adherence:
    """Compare each verdict with its own prompt and, for the chance level, with every other prompt."""
    own = [followed(verdict, prompt) for verdict, prompt in zip(verdicts, prompts, strict=True)]
    others = [
        followed(verdict, prompt) for i, verdict in enumerate(verdicts) for j, prompt in enumerate(prompts) if i != j
    ]
    return Adherence(_scores(own, len(prompts)), chance=_scores(others, len(prompts)))


def followed(verdict: Verdict, prompt: Prompt) -> tuple[bool, ...]:
    """Return whether a clip matches the prompt, per aspect in the order of ASPECTS."""
    return tuple(getattr(verdict, aspect) == getattr(prompt.scene, aspect) for aspect in ASPECTS)


def _scores(followed: Sequence[tuple[bool, ...]], prompts: int) -> Scores:
    count = max(1, len(followed))
    colour, motion, shape = (round(sum(f[aspect] for f in followed) / count, 4) for aspect in range(len(ASPECTS)))
    all_three = round(sum(map(all, followed)) / count, 4)
    return Scores(colour, motion, shape, all_three=all_three, prompts=prompts)
