"""The timesteps of a generation and the solver that walks down them, one instance per request."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from numpy.typing import NDArray
from torch import Tensor

from wan_t2v.facts import ModelFacts
from wan_t2v.request import Settings


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
    return UniPcSchedule(facts.scheduler, num_inference_steps=steps, flow_shift=flow_shift)


class UniPcSchedule:
    """diffusers' UniPC, with Wan's own timesteps.

    The solver remembers earlier steps, also across the switch from one expert to the other.
    """

    def __init__(self, config: Mapping[str, Any], *, num_inference_steps: int, flow_shift: float) -> None:
        self._solver = UniPCMultistepScheduler.from_config(dict(config), flow_shift=flow_shift)
        self._solver.set_timesteps(sigmas=official_sigmas(num_inference_steps))
        self._solver.set_begin_index(0)  # without it the first step searches, and finds a wrong one if two are equal
        self.timesteps: tuple[int, ...] = tuple(int(timestep) for timestep in self._solver.timesteps)

    def step(self, velocity: Tensor, timestep: float, latents: Tensor) -> Tensor:
        """One step of the solver, in float32: latents at `timestep` to latents at the next one."""
        stepped: Tensor = self._solver.step(velocity, timestep, latents, return_dict=False)[0]
        return stepped

    def state(self) -> dict[str, Tensor]:
        """What the solver remembers of the steps so far, as tensors to keep; `restore` takes it up."""
        solver = self._solver
        counts = [solver.step_index or 0, solver.lower_order_nums, getattr(solver, "this_order", 0)]
        timesteps = [-1 if timestep is None else timestep for timestep in solver.timestep_list]
        positions = {"counts": torch.tensor(counts), "timesteps": torch.tensor(timesteps)}
        outputs = {f"output_{i}": output for i, output in enumerate(solver.model_outputs) if output is not None}
        last = {} if solver.last_sample is None else {"last_sample": solver.last_sample}
        return {**positions, **outputs, **last}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken, on a schedule of the same steps and shift."""
        solver = self._solver
        solver._step_index, solver.lower_order_nums, solver.this_order = (int(count) for count in state["counts"])
        solver.timestep_list = [None if t < 0 else int(t) for t in state["timesteps"]]
        solver.model_outputs = [state.get(f"output_{i}") for i in range(len(solver.model_outputs))]
        solver.last_sample = state.get("last_sample")

    @property
    def clean_estimate(self) -> Tensor:
        """The clean latents that the last velocity points at: `latents - sigma * velocity`, kept by the solver."""
        newest: Tensor = self._solver.model_outputs[-1]
        return newest


class EulerSchedule:
    """Euler steps down given noise levels, for experts that were distilled to a few steps.

    `sigmas` fall from 1 or less to 0, one more than there are steps. Timesteps may be fractions: experts were distilled
    at 937.5. The formula is that of diffusers' FlowMatchEulerDiscreteScheduler: `latents + (next - sigma) * velocity`.
    """

    def __init__(self, sigmas: Sequence[float], *, num_train_timesteps: int) -> None:
        self._sigmas = torch.tensor(sigmas, dtype=torch.float32)
        self.timesteps: tuple[float, ...] = tuple(float(sigma) for sigma in self._sigmas[:-1] * num_train_timesteps)
        self._index = 0
        self._clean: Tensor | None = None

    def step(self, velocity: Tensor, timestep: float, latents: Tensor) -> Tensor:
        """One step, in float32: latents at `timestep` to latents at the next one."""
        sigma, following = self._sigmas[self._index], self._sigmas[self._index + 1]
        self._index += 1
        self._clean = latents - sigma * velocity
        return latents + (following - sigma) * velocity

    def state(self) -> dict[str, Tensor]:
        """How many steps are done, as a tensor to keep; `restore` takes it up."""
        return {"index": torch.tensor(self._index)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        self._index = int(state["index"])

    @property
    def clean_estimate(self) -> Tensor:
        """The clean latents that the last velocity points at: `latents - sigma * velocity`."""
        assert self._clean is not None, "asked after a step"
        return self._clean


def shifted_sigmas(num_inference_steps: int, flow_shift: float) -> tuple[float, ...]:
    """Noise levels of a few-step generation, from 1 to 0: evenly spaced, then shifted.

    For four steps and shift 5 those of LightX2V's four-step experts (1, 0.9375, 0.8333, 0.625, 0).
    """
    even = [1.0 - index / num_inference_steps for index in range(num_inference_steps)]
    # not `1 + (flow_shift - 1) * sigma` below the line: rounded, that is 0 for a tiny shift
    return (*(flow_shift * sigma / ((1.0 - sigma) + flow_shift * sigma) for sigma in even), 0.0)


def official_sigmas(num_inference_steps: int) -> NDArray[np.float64]:
    """Unshifted noise levels of Wan's own sampler (FlowUniPCMultistepScheduler in Wan-Video/Wan2.2).

    diffusers 0.37 changed its own formula, so `set_timesteps(n)` no longer gives Wan's timesteps: with shift 12 and 40
    steps it ends 496, 391, 242 where Wan ends 492, 386, 235.
    """
    rising = 1.0 - np.linspace(1.0, 1.0 / 1000.0, num_inference_steps + 1)
    return np.flip(rising)[:-1].copy()
