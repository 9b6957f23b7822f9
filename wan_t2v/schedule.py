"""The timesteps of a generation, and the solver that steps through them; one instance per request."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from wan_t2v.facts import ModelFacts
from wan_t2v.request import Settings
from wan_t2v.solvers.euler import EulerSchedule
from wan_t2v.solvers.noise_levels import official_sigmas, shifted_sigmas
from wan_t2v.solvers.unipc import UniPcSchedule


class Schedule(Protocol):
    """Timesteps from noise to clean, with the solver's state of one request (never shared between two)."""

    @property
    def timesteps(self) -> Sequence[float]:
        """Timesteps in the order of the steps, from noise to clean."""

    def step(self, velocity: Tensor, timestep: float, latents: Tensor) -> Tensor:
        """Advance latents (1, C, F, H, W) float32 by one solver step, from `timestep` to the next one."""

    def state(self) -> dict[str, Tensor]:
        """Return the solver's state after the steps so far, as tensors for `restore`."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state` of a schedule with the same steps and shift."""

    @property
    def clean_estimate(self) -> Tensor:
        """Estimate of the clean latents by the last velocity: `latents - sigma * velocity`."""


def make_schedule(settings: Settings, facts: ModelFacts) -> Schedule:
    """Make the schedule of a request, before its first step."""
    steps, flow_shift = settings.num_inference_steps, settings.flow_shift
    if settings.solver == "euler":
        sigmas = settings.sigmas or shifted_sigmas(steps, flow_shift)
        return EulerSchedule(sigmas, num_train_timesteps=facts.num_train_timesteps)
    return UniPcSchedule(facts.scheduler, official_sigmas(steps), flow_shift=flow_shift)
