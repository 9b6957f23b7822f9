"""The loop: stopped anywhere and taken up again, a run ends with the same weights as one that was never stopped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.learn.ema import WeightAverage
from training.learn.loop import (
    LOG_FILE,
    SNAPSHOT_FILE,
    OtherSettingsError,
    Plan,
    Training,
    check_settings,
    optimisers,
    with_average,
)
from training.learn.muon import Muon, is_matrix, orthogonal

CPU = torch.device("cpu")
PLAN = Plan(steps=12, minutes=None, learning_rate=1e-2, warmup_steps=3, average_decay=0.9)


class FakeStage:
    """Learn to copy eight numbers; `stops_at` plays a user who presses Ctrl-C."""

    def __init__(self, *, stops_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8))
        self.stops_at = stops_at

    def losses(self, step: int, share_done: float) -> dict[str, Tensor]:
        if step == self.stops_at:
            raise KeyboardInterrupt
        given = torch.randn(32, 8, generator=torch.Generator().manual_seed(step))
        return {"loss": (self.module(given).float() - given).square().mean()}

    def show(self, path: Path) -> dict[str, float]:
        path.write_bytes(b"strip")
        return {"shown": 1.0}


def _run(folder: Path, *, stops_at: int | None = None, plan: Plan = PLAN, seed: int = 0) -> nn.Module:
    stage = FakeStage(stops_at=stops_at)
    return Training(stage, folder, plan=plan, device=CPU, settings={"size": "64x64x17", "seed": seed}).run()


def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole")
    for stop in (4, 9):
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path / "stopped", stops_at=stop)
    resumed = _run(tmp_path / "stopped")
    for expected, found in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = _run(tmp_path)
    again = _run(tmp_path, stops_at=0)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_a_longer_plan_goes_on_from_a_finished_run(tmp_path: Path) -> None:
    _run(tmp_path)
    _run(tmp_path, plan=replace(PLAN, steps=20))
    assert json.loads((tmp_path / LOG_FILE).read_text().splitlines()[-1])["step"] == 20


@pytest.mark.parametrize("stops_at", [4, None], ids=["stopped", "finished"])
def test_a_snapshot_of_other_settings_is_refused_and_kept(stops_at: int | None, tmp_path: Path) -> None:
    if stops_at is None:
        _run(tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path, stops_at=stops_at)
    before = (tmp_path / SNAPSHOT_FILE).read_bytes()
    with pytest.raises(
        OtherSettingsError, match=r"seed was 0 and is 1\. Give the settings of before, name another --work"
    ):
        _run(tmp_path, seed=1)
    assert (tmp_path / SNAPSHOT_FILE).read_bytes() == before


def test_a_snapshot_without_settings_is_refused(tmp_path: Path) -> None:
    """It was written before they were noted."""
    _run(tmp_path)
    state = torch.load(tmp_path / SNAPSHOT_FILE, weights_only=True)
    del state["settings"]
    torch.save(state, tmp_path / SNAPSHOT_FILE)
    with pytest.raises(OtherSettingsError, match="size was not noted and is 64x64x17"):
        _run(tmp_path)
    check_settings(tmp_path / "nowhere", {"seed": 1})


def test_losses_are_logged_as_json_lines_and_a_strip_is_written(tmp_path: Path) -> None:
    _run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 12, 12]
    assert lines[0]["loss"] > 0.0
    assert (tmp_path / "step-000012.png").exists()


def test_the_averaged_weights_can_be_had_from_the_snapshot(tmp_path: Path) -> None:
    trained = _run(tmp_path)
    found = with_average(FakeStage().module, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), found.parameters(), strict=True))


def test_a_missing_snapshot_is_answered_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m training"):
        with_average(FakeStage().module, tmp_path)


def test_a_plan_ends_at_its_steps_or_its_minutes_whichever_comes_first() -> None:
    plan = Plan(steps=100, minutes=1.0, learning_rate=1.0)
    assert plan.share_done(50, 6.0) == 0.5
    assert plan.share_done(10, 30.0) == 0.5
    assert plan.share_done(10, 90.0) == 1.0


def test_the_rate_rises_then_falls_to_its_last_share() -> None:
    plan = Plan(steps=100, minutes=None, learning_rate=2.0, warmup_steps=10, final_rate=0.1)
    assert plan.rate_at(0, 0.0) == pytest.approx(0.2)
    assert plan.rate_at(50, 0.0) == pytest.approx(2.0)
    assert plan.rate_at(100, 1.0) == pytest.approx(0.2)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 32), (2, 32, 8)])
def test_orthogonal_brings_all_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert singular.min() > 0.3
    assert singular.max() < 1.4


def test_embeddings_norms_and_biases_are_no_matrices() -> None:
    weight, table = nn.Parameter(torch.zeros(8, 8)), nn.Parameter(torch.zeros(32, 4))
    assert is_matrix("blocks.0.ffn.weight", weight)
    assert is_matrix("conv.weight", nn.Parameter(torch.zeros(8, 4, 3, 3, 3)))
    assert not is_matrix("norm.weight", nn.Parameter(torch.zeros(8)))
    assert not is_matrix("shared.weight", weight)
    assert not is_matrix("relative_attention_bias.weight", table)
    assert not is_matrix("scale_shift_table", weight)


def test_matrices_alone_have_one_optimiser() -> None:
    (only,) = optimisers(nn.Linear(8, 8, bias=False), PLAN)
    assert isinstance(only, Muon)


def test_the_average_stands_in_for_the_weights_and_gives_them_back() -> None:
    module = nn.Linear(2, 2)
    average = WeightAverage(module, decay=0.9)
    before = module.weight.detach().clone()
    with torch.no_grad():
        module.weight += 1.0
    average.update(module, step=1)
    with average.in_place_of(module):
        assert torch.allclose(module.weight, before + 10.0 / 11.0)
    assert torch.allclose(module.weight, before + 1.0)
