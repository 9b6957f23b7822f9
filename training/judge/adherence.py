"""Adherence: how often a generator makes what held-out prompts ask for, judged on decoded frames."""

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
    """Shares of prompts that were followed, in one aspect each and in all three at once."""

    colour: float
    motion: float
    shape: float
    all_three: float
    prompts: int


@dataclass(frozen=True)
class Adherence:
    """Scores, and beside them the chance level: the same clips judged against the prompts of others."""

    scores: Scores
    chance: Scores

    def as_line(self) -> dict[str, object]:
        """One flat record: the scores, with the chance level as `chance_colour` and so on."""
        chance = {f"chance_{name}": value for name, value in asdict(self.chance).items() if name != "prompts"}
        return {**asdict(self.scores), **chance}


def measure_adherence(
    generate: Generate, *, sheet: Path | None = None, prompts: Sequence[Prompt] | None = None
) -> Adherence:
    """Generate a clip for each prompt, judge it, and write the contact sheet."""
    prompts = fixed_prompts() if prompts is None else prompts
    return judge_adherence([generate(prompt.text, prompt.seed) for prompt in prompts], prompts, sheet=sheet)


def judge_adherence(clips: Sequence[Frames], prompts: Sequence[Prompt], *, sheet: Path | None = None) -> Adherence:
    """Judge a clip for each prompt, and write the contact sheet."""
    if sheet is not None:
        write_contact_sheet(sheet, clips, columns=SHEET_COLUMNS)
    return score([judge(clip) for clip in clips], prompts)


def score(verdicts: Sequence[Verdict], prompts: Sequence[Prompt]) -> Adherence:
    """Compare verdicts with their own prompts and, for the chance level, with every other one's."""
    own = [followed(verdict, prompt) for verdict, prompt in zip(verdicts, prompts, strict=True)]
    others = [
        followed(verdict, prompt) for i, verdict in enumerate(verdicts) for j, prompt in enumerate(prompts) if i != j
    ]
    return Adherence(_scores(own, len(prompts)), chance=_scores(others, len(prompts)))


def followed(verdict: Verdict, prompt: Prompt) -> tuple[bool, ...]:
    """Whether a clip shows what the prompt asks for, by aspect."""
    return tuple(getattr(verdict, aspect) == getattr(prompt.scene, aspect) for aspect in ASPECTS)


def _scores(followed: Sequence[tuple[bool, ...]], prompts: int) -> Scores:
    count = max(1, len(followed))
    colour, motion, shape = (round(sum(f[aspect] for f in followed) / count, 4) for aspect in range(len(ASPECTS)))
    all_three = round(sum(map(all, followed)) / count, 4)
    return Scores(colour, motion, shape, all_three=all_three, prompts=prompts)
