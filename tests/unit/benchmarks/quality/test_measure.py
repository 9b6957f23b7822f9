"""Each prompt is made in each profile, and compared with its own exact clip."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.quality.measure import EXACT, OTHER_SEED, measure, profile_fields, profile_ways

PASSES = {EXACT: [2, 2, 2], "fast": [2, 0, 1]}


class FakeClient:
    """Makes clips whose grey is the seed's, one level more in another profile."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, str]] = []

    def generate(self, text: str, *, seed: int, step_profile: str, output_type: str) -> Any:
        assert output_type == "frames"
        self.asked.append((text, seed, step_profile))
        grey = seed % 100 + (step_profile == "fast")
        return SimpleNamespace(
            frames=np.full((2, 16, 16, 3), grey, np.uint8), metadata={"passes": PASSES[step_profile]}
        )


def run(prompts: Sequence[tuple[str, int]], *, keep_frames: bool = False) -> tuple[FakeClient, Any]:
    client = FakeClient()
    clips = list(measure(profile_ways(client, ["fast"]), prompts, keep_frames=keep_frames))  # type: ignore[arg-type]
    return client, clips[-1]


def test_a_row_has_the_passes_and_the_difference_from_exact() -> None:
    _, clips = run([("a", 1), ("b", 2)])
    exact, fast = clips[EXACT].row(), clips["fast"].row()
    assert (exact["passes"], exact["psnr_db"], exact["ssim"], exact["ratio"]) == (6, 100.0, 1.0, 1.0)
    assert (fast["passes"], fast["psnr_db"]) == (3, pytest.approx(48.13, abs=0.01))
    assert clips[OTHER_SEED].row()["psnr_db"] < 48


def test_the_first_call_is_a_warm_up_and_no_profile_is_always_first() -> None:
    client, _ = run([("a", 1), ("b", 2), ("c", 3)])
    assert client.asked[:2] == [("a", 1, EXACT), ("a", 1, "fast")]
    rounds = [client.asked[2:][index : index + 3] for index in (0, 3, 6)]
    assert [profile for _, _, profile in (one[0] for one in rounds)] == [EXACT, EXACT, "fast"]
    assert all({text for text, _, _ in one} == {name} for one, name in zip(rounds, "abc", strict=True))
    assert len({seed for _, seed, _ in rounds[0]}) == 2, "one of them has another seed"


def test_frames_are_kept_for_a_judge_alone() -> None:
    assert len(run([("a", 1)], keep_frames=True)[1]["fast"].frames) == 1
    assert run([("a", 1)])[1]["fast"].frames == []


def test_another_precision_is_compared_with_exact_of_the_first_server() -> None:
    first, other = FakeClient(), FakeClient()
    ways = profile_ways(first, ["fast"]) | profile_ways(other, ["fast"], precision="int8")  # type: ignore[arg-type]
    clips = list(measure(ways, [("a", 1)], keep_frames=False))[-1]
    assert list(clips) == [EXACT, OTHER_SEED, "fast", "int8", "int8, fast"]
    assert (clips["int8"].row()["psnr_db"], clips["int8, fast"].row()["passes"]) == (100.0, 3)
    assert [profile for _, _, profile in other.asked] == [EXACT, "fast"] * 2


def test_a_profile_is_a_name_or_raw_fields() -> None:
    assert profile_fields("fast") == {"step_profile": "fast"}
    assert profile_fields("step_cache=0.05, guidance_skip=0.1") == {"step_cache": 0.05, "guidance_skip": 0.1}
    with pytest.raises(ValueError, match="could not convert"):
        profile_fields("step_cache=much")
