"""Waypoints: the five noise levels of a four-step generation, and a teacher's schedule through all of them."""

import numpy as np
from numpy.typing import NDArray

from export.checkpoint.mini import BOUNDARY_RATIO
from training.learn.flow_matching import FLOW_SHIFT, TRAIN_TIMESTEPS, unshift
from training.learn.sampling import scheduler_config
from wan_t2v.experts import HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT
from wan_t2v.solvers.noise_levels import official_sigmas, shifted_sigmas
from wan_t2v.solvers.unipc import UniPcSchedule

STEPS = 4
STUDENT_SHIFT = 5.0
SIGMAS = shifted_sigmas(STEPS, STUDENT_SHIFT)  # 1, 0.9375, 0.8333, 0.625, 0
EXPERT_OF_STEP = tuple(
    HIGH_NOISE_EXPERT if sigma >= BOUNDARY_RATIO else LOW_NOISE_EXPERT for sigma in SIGMAS[:-1]
)  # two each


class TeacherSchedule(UniPcSchedule):
    """Serving's solver on serving's noise levels, with the level nearest to each waypoint moved onto it.

    `marks` has the number of steps after which the latents are at each waypoint, without the first one.
    """

    def __init__(self, steps: int) -> None:
        times, positions = times_through_waypoints(steps)
        super().__init__(scheduler_config(), times, flow_shift=FLOW_SHIFT)
        self.marks = (*positions, steps)


def times_through_waypoints(steps: int) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """Return Wan's unshifted noise levels with the inner waypoints among them, and the waypoints' indices.

    Raises ValueError if there are too few steps for separate waypoints.
    """
    times = official_sigmas(max(steps, STEPS))
    inner = [unshift(sigma) for sigma in SIGMAS[1:-1]]
    positions = tuple(int(np.abs(times - time).argmin()) for time in inner)
    if steps < STEPS or len({0, *positions}) <= len(inner):
        raise ValueError(f"{steps} steps of the teacher are too few to pass through each waypoint, take 8 or more")
    times[list(positions)] = inner
    return times, positions


def timestep_of(step: int) -> float:
    """Return the timestep of the student's step `step` (from 0), which may be a fraction."""
    return SIGMAS[step] * TRAIN_TIMESTEPS
