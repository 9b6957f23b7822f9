"""Score distilled four-step experts and their teacher, through servers, on several seeds.

    python -m benchmarks.quality.distilled --student build/four-steps

`--repository` serves the teacher: with its default steps, with four steps of its own solver, and with the student's
four steps. `--student` is a model repository with the merged checkpoint. Each prompt of the held-out list is generated
once per seed. Writes a JSON file with machine and commit, and a contact sheet of each row's first seed. Prints the
table.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from wan_t2v_client import ClientError, TextToVideo

from benchmarks.harness.machine import provenance
from embedded.errors import ServerError
from export.atomic import write_atomically
from training.contact_sheet import write_contact_sheet
from training.distill.waypoints import STEPS, STUDENT_SHIFT
from training.judge.adherence import ASPECTS, SHEET_COLUMNS, followed
from training.judge.attributes import judge
from training.judge.through_server import connect, frames_from_mp4
from training.world.prompts import PROMPTS, Prompt, fixed_prompts
from training.world.render import Frames

RESULTS = Path("training/wan-mini-four-steps/scores.json")
FOUR_STEPS: Mapping[str, Any] = {
    "solver": "euler",
    "num_inference_steps": STEPS,
    "flow_shift": STUDENT_SHIFT,
    "guidance_scale": 1.0,
}
# Request fields by row of the table.
TEACHER: Mapping[str, Mapping[str, Any]] = {
    "teacher, 40 steps": {},
    "teacher, 4 steps": {"num_inference_steps": STEPS},
    "teacher, 4 Euler steps, no guidance": FOUR_STEPS,
}
STUDENT: Mapping[str, Mapping[str, Any]] = {"LoRA, 4 Euler steps, no guidance": FOUR_STEPS}
SEEDS_BETWEEN = 1_000_003
RESAMPLED = 2000
INTERVAL = (2.5, 97.5)  # percentiles: 95 %


@dataclass
class Row:
    """Results of one way of generating.

    Attributes:
        passes, seconds: one value per clip, in the order of prompts and then seeds.
        followed: per prompt and seed, whether the clip shows each of ASPECTS.
        sheet: frames of each prompt's first seed.
    """

    passes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    followed: list[list[tuple[bool, ...]]] = field(default_factory=list)
    sheet: list[Frames] = field(default_factory=list)

    def add(self, client: TextToVideo, prompt: Prompt, fields: Mapping[str, Any], *, seeds: int) -> None:
        """Generate a prompt with each seed, and judge the clips."""
        clips = []
        for index in range(seeds):
            started = time.monotonic()
            answer = client.generate(prompt.text, seed=prompt.seed + index * SEEDS_BETWEEN, **fields)
            self.seconds.append(time.monotonic() - started)
            self.passes.append(sum(answer.metadata["passes"]))
            assert answer.video is not None  # the default output_type is mp4
            clips.append(frames_from_mp4(answer.video))
        self.sheet.append(clips[0])
        self.followed.append([followed(judge(clip), prompt) for clip in clips])

    def figures(self) -> dict[str, Any]:
        """Compute mean passes, median seconds, and the share of clips per aspect with its interval."""
        hits = np.array(self.followed)  # (prompts, seeds, aspects)
        aspects = {aspect: hits[..., at] for at, aspect in enumerate(ASPECTS)} | {"all_three": hits.all(axis=-1)}
        return {
            "passes": statistics.mean(self.passes),
            "seconds": round(statistics.median(self.seconds), 3),
            **{name: share_with_interval(hit) for name, hit in aspects.items()},
        }


def share_with_interval(hits: NDArray[np.bool_]) -> list[float]:
    """Return the share of hits (prompts, seeds) and the ends of its 95 % bootstrap interval.

    Prompts are resampled with all their seeds, since a prompt that is hard with one seed is hard with the others.
    """
    by_prompt = hits.mean(axis=1)
    drawn = np.random.default_rng(0).integers(len(by_prompt), size=(RESAMPLED, len(by_prompt)))
    ends = np.percentile(by_prompt[drawn].mean(axis=1), INTERVAL)
    return [round(float(value), 4) for value in (by_prompt.mean(), *ends)]


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Format the rows as a Markdown table, with shares and their intervals in percent."""
    head = "| | passes | seconds | colour | motion | shape | all three |"
    body = [
        f"| {name} | {row['passes']:g} | {row['seconds']:g} | "
        + " | ".join(_percent(row[aspect]) for aspect in (*ASPECTS, "all_three"))
        + " |"
        for name, row in rows.items()
    ]
    return [head, "|" + " --- |" * 7, *body]


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate, judge and write. Returns an exit code."""
    options = _parser().parse_args(arguments)
    about, prompts = provenance(), fixed_prompts(options.prompts)
    rows: dict[str, Row] = {}
    try:
        for repository, ways in ((options.repository, TEACHER), (options.student, STUDENT)):
            with connect(None, repository) as client:
                for name, fields in ways.items():
                    rows[name] = Row()
                    client.generate(prompts[0].text, seed=0, **fields)  # warm
                    for prompt in tqdm(prompts, desc=name, unit="prompt"):
                        rows[name].add(client, prompt, fields, seeds=options.seeds)
    except (ServerError, ClientError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    figures = {name: row.figures() for name, row in rows.items()}
    result = {**about, "prompts": len(prompts), "seeds": options.seeds, "rows": figures}
    with write_atomically(options.out) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, row in rows.items():
        write_contact_sheet(options.sheets / f"{name.replace(' ', '-')}.png", row.sheet, columns=SHEET_COLUMNS)
    print("\n".join(table(figures)))
    return 0


def _percent(share: Sequence[float]) -> str:
    value, low, high = (100.0 * one for one in share)
    return f"{value:.1f} % ({low:.0f} to {high:.0f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.distilled", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), help="where the teacher is")
    parser.add_argument("--student", type=Path, required=True, help="where the merged checkpoint is")
    parser.add_argument("--seeds", type=int, default=3, help="clips per prompt")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="number of prompts, from the top of the list")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    parser.add_argument("--sheets", type=Path, default=Path("out/four-steps"), help="folder of contact sheets")
    return parser


if __name__ == "__main__":
    sys.exit(main())
