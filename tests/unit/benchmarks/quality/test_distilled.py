"""Rows and intervals."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.quality import distilled as module
from benchmarks.quality.distilled import FOUR_STEPS, RESULTS, Row, share_with_interval, table
from training.distill.waypoints import SIGMAS
from training.judge.attributes import Verdict
from training.world.prompts import Prompt, fixed_prompts
from wan_t2v.solvers.noise_levels import shifted_sigmas


class FakeClient:
    """Answers with the request itself in place of a video."""

    def generate(self, text: str, *, seed: int, **fields: Any) -> Any:
        return SimpleNamespace(video=(text, seed), metadata={"passes": [1] * fields["num_inference_steps"]})


def judged(prompt: Prompt, seed: int) -> Verdict:
    """The first seed of a prompt shows all, others the colour alone."""
    return Verdict(
        prompt.scene.colour, *((prompt.scene.motion, prompt.scene.shape) if seed == prompt.seed else (None, None))
    )


def test_a_row_counts_what_each_clip_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = {prompt.text: prompt for prompt in fixed_prompts(3)}
    monkeypatch.setattr(module, "frames_from_mp4", lambda video: video)
    monkeypatch.setattr(module, "judge", lambda video: judged(prompts[video[0]], video[1]))
    row = Row()
    for prompt in prompts.values():
        row.add(FakeClient(), prompt, FOUR_STEPS, seeds=2)  # type: ignore[arg-type]
    figures = row.figures()
    assert figures["passes"] == 4
    assert figures["colour"] == [1.0, 1.0, 1.0]
    assert figures["shape"] == figures["all_three"] == [0.5, 0.5, 0.5]
    assert [video[1] for video in row.sheet] == [prompt.seed for prompt in prompts.values()]  # type: ignore[comparison-overlap]


def test_an_interval_is_wider_where_prompts_differ_than_where_seeds_do() -> None:
    by_seed = np.tile([True, False], (40, 1))
    by_prompt = by_seed.T.reshape(40, 2)
    assert share_with_interval(by_seed) == [0.5, 0.5, 0.5]
    share, low, high = share_with_interval(by_prompt)
    assert share == 0.5 and low < 0.4 and high > 0.6


def test_a_request_for_four_steps_visits_the_waypoints() -> None:
    assert shifted_sigmas(FOUR_STEPS["num_inference_steps"], FOUR_STEPS["flow_shift"]) == SIGMAS
    assert FOUR_STEPS["guidance_scale"] == 1.0


def test_the_model_card_has_the_table_of_the_last_scores(root: Path) -> None:
    found = json.loads((root / RESULTS).read_text())
    card = (root / "training/MODEL_CARD.md").read_text()
    assert "\n".join(table(found["rows"])) in card
    assert f"{found['date']}, {found['machine']}, load {found['load']:.1f}" in card.replace("\n", " ")
    speed = " ".join((root / "docs/use/speed.md").read_text().split())
    for row in found["rows"].values():
        assert f"{100 * row['all_three'][0]:.1f} %" in speed
