"""The teacher's schedule stops where the student's steps end."""

import numpy as np
import pytest

from training.distill.waypoints import EXPERT_OF_STEP, SIGMAS, TeacherSchedule, times_through_waypoints, timestep_of
from training.learn.flow_matching import unshift
from wan_t2v.experts import HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT
from wan_t2v.solvers.noise_levels import official_sigmas


def test_each_expert_takes_two_of_the_students_steps() -> None:
    assert EXPERT_OF_STEP == (HIGH_NOISE_EXPERT,) * 2 + (LOW_NOISE_EXPERT,) * 2
    assert [round(timestep_of(step), 1) for step in range(4)] == [1000.0, 937.5, 833.3, 625.0]


@pytest.mark.parametrize("steps", [12, 20, 40])
def test_the_teacher_passes_through_each_waypoint_and_else_keeps_servings_levels(steps: int) -> None:
    schedule = TeacherSchedule(steps)
    reached = [float(schedule.sigmas[mark]) for mark in schedule.marks]
    assert reached == pytest.approx(SIGMAS[1:], abs=1e-6)
    times, positions = times_through_waypoints(steps)
    others = np.delete(np.arange(steps), positions)
    assert np.array_equal(times[others], official_sigmas(steps)[others])
    assert np.all(np.diff(times) < 0.0)
    assert times[list(positions)] == pytest.approx([unshift(sigma) for sigma in SIGMAS[1:-1]])


@pytest.mark.parametrize("steps", [-1, 0, 2, 5])
def test_too_few_steps_of_the_teacher_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"{steps} steps of the teacher are too few"):
        times_through_waypoints(steps)
