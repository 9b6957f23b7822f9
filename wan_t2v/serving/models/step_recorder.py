"""What both endpoints record after each step of a generation."""

from dataclasses import dataclass, field

from wan_t2v.denoise import Step
from wan_t2v.progress import Progress, StepClock
from wan_t2v.serving.admission.running_generation import RunningGeneration
from wan_t2v.serving.python_backend.metrics import Metrics
from wan_t2v.serving.python_backend.tracing import Trace


@dataclass(frozen=True)
class StepRecorder:
    """Records one generation's steps in the metrics, in its trace, and in its slot; made before the first step."""

    metrics: Metrics
    trace: Trace
    turn: RunningGeneration
    _clock: StepClock = field(default_factory=StepClock)

    def record(self, step: Step) -> Progress:
        """Record a step that has just ended, and return the progress after it."""
        progress = self._clock.after(step, expected_left_s=self.turn.expected_left_s)
        self.metrics.count_step(step, progress.step_s)
        self.trace.step(step, progress.step_s)
        self.turn.report_step(step)
        return progress
