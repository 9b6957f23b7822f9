"""What a step of the student is asked for, by whom it is taken, and where it starts."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.distill import stage as module
from training.distill.stage import DistillStage, follow, target_velocity
from training.distill.trajectories import Trajectories
from training.distill.waypoints import SIGMAS
from wan_t2v.experts import HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT

STATES = torch.randn(4, 5, 1, 1, 1, 2, generator=torch.Generator().manual_seed(0))


class FakeExpert(nn.Module):
    """Twice its input, and what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)
        self.linear.weight.data = 2.0 * torch.eye(2)
        self.asked = list[tuple[Tensor, float]]()

    def forward(self, latents: Tensor, timesteps: Tensor, texts: Tensor, return_dict: bool) -> tuple[Tensor]:
        self.asked.append((latents.detach().clone(), round(float(timesteps[0]), 1)))
        return (self.linear(latents),)


@pytest.fixture
def experts() -> Any:
    return SimpleNamespace(high_noise_expert=FakeExpert(), low_noise_expert=FakeExpert())


@pytest.fixture
def stage(experts: Any, monkeypatch: pytest.MonkeyPatch) -> DistillStage:
    monkeypatch.setattr(module, "KEPT_BACK", 1)
    return DistillStage(experts, Trajectories(STATES, torch.zeros(4, 1)), seed=0, device=torch.device("cpu"))


def test_the_target_goes_from_one_waypoint_to_the_next() -> None:
    start, end = torch.tensor([1.0]), torch.tensor([0.5])
    assert target_velocity(start, end, 0).item() == pytest.approx(0.5 / 0.0625)
    assert target_velocity(start, end, 3).item() == pytest.approx(0.5 / 0.625)
    for step in range(4):
        assert follow(start, target_velocity(start, end, step), step).item() == pytest.approx(0.5)


def test_each_step_is_taken_by_its_expert_at_its_timestep(stage: DistillStage, experts: Any) -> None:
    stage.losses(0, 0.0)
    assert [timestep for _, timestep in experts.high_noise_expert.asked] == [1000.0, 937.5]
    assert [timestep for _, timestep in experts.low_noise_expert.asked] == [833.3, 625.0]


def test_steps_start_from_the_teachers_states_at_first_and_from_the_students_own_later(
    stage: DistillStage, experts: Any
) -> None:
    stage.losses(0, 0.0)
    stage.losses(0, 1.0)
    first, second, own_first, own_second = (latents for latents, _ in experts.high_noise_expert.asked)
    assert torch.equal(first, own_first), "the noise is the same"
    assert any(torch.equal(second[0], states[1]) for states in STATES)
    assert torch.allclose(own_second, first + (SIGMAS[1] - SIGMAS[0]) * 2.0 * first)


def test_losses_are_the_squared_errors_of_velocities_and_reach_each_lora(stage: DistillStage) -> None:
    losses = stage.losses(0, 0.0)
    assert losses["loss"].item() == pytest.approx(sum(losses[f"step_{i}"].item() for i in (1, 2, 3, 4)))
    losses["loss"].backward()
    for name in (HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT):
        factor = stage.module[name]["linear/lora_B"].weight  # type: ignore[index]
        assert factor.grad.abs().sum() > 0.0  # type: ignore[union-attr]


def test_a_student_on_the_trajectory_is_not_apart_from_it(stage: DistillStage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stage.kept_back_errors()["apart_4"] > 0.01
    kept = STATES[3:]
    monkeypatch.setattr(stage, "_velocity", lambda step, start, texts: target_velocity(start, kept[:, step + 1], step))
    assert max(stage.kept_back_errors().values()) < 1e-12
