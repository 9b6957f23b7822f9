"""The timesteps of a generation and the solver that walks down them, one instance per request."""

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
        """From noise to clean."""

    def step(self, velocity: Tensor, timestep: float, latents: Tensor) -> Tensor:
        """One step of the solver, in float32: latents at `timestep` to latents at the next one."""

    def state(self) -> dict[str, Tensor]:
        """What the solver remembers of the steps so far, as tensors to keep; `restore` takes it up."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken, on a schedule of the same steps and shift."""

    @property
    def clean_estimate(self) -> Tensor:
        """The clean latents that the last velocity points at: `latents - sigma * velocity`."""


def make_schedule(settings: Settings, facts: ModelFacts) -> Schedule:
    """Begin the schedule of a request."""
    steps, flow_shift = settings.num_inference_steps, settings.flow_shift
    if settings.solver == "euler":
        sigmas = settings.sigmas or shifted_sigmas(steps, flow_shift)
        return EulerSchedule(sigmas, num_train_timesteps=facts.num_train_timesteps)
    return UniPcSchedule(facts.scheduler, official_sigmas(steps), flow_shift=flow_shift)
