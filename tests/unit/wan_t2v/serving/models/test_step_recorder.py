"""A step is recorded once in each place that tells of it."""

from typing import Any

import torch

from wan_t2v.denoise import Step
from wan_t2v.serving.models.step_recorder import StepRecorder


class Recorded:
    """Stands for the metrics, the trace and the running generation."""

    expected_left_s = 70.0

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, float | None]] = []

    def count_step(self, step: Step, seconds: float) -> None:
        self.steps.append(("metrics", step.index, seconds))

    def step(self, step: Step, seconds: float) -> None:
        self.steps.append(("trace", step.index, seconds))

    def report_step(self, step: Step) -> None:
        self.steps.append(("turn", step.index, None))


def test_a_step_goes_to_the_metrics_the_trace_and_the_slot_with_one_duration() -> None:
    recorded: Any = Recorded()
    latents = torch.zeros(1, 16, 1, 2, 2)
    step = Step(1, 2, 999.0, "high_noise_expert", latents, latents, passes=2, passes_left=2.0)
    progress = StepRecorder(recorded, recorded, recorded).record(step)
    seconds = progress.step_s
    assert recorded.steps == [("metrics", 1, seconds), ("trace", 1, seconds), ("turn", 1, None)]
    assert (progress.step, progress.num_inference_steps) == (1, 2)


def test_until_a_pass_was_computed_the_admission_tells_the_time_left() -> None:
    recorded: Any = Recorded()
    latents = torch.zeros(1, 16, 1, 2, 2)
    step = Step(11, 40, 999.0, "high_noise_expert", latents, latents, passes=0, passes_left=50.0)
    assert StepRecorder(recorded, recorded, recorded).record(step).left_s == 70.0
