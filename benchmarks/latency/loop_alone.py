"""Cost of a denoising step without the experts: the loop with experts that return at once, and two solvers.

    python -m benchmarks.latency.loop_alone

Runs without a server, on one thread, at a checkpoint's default size. Prints one JSON line:

* `loop_ms`: a step of `denoise` with two guidance passes, each of which returns an existing tensor;
* `solver_ms`: this project's UniPC alone;
* `diffusers_solver_ms`: diffusers' UniPC on the same velocities; both must end with the same latents;
* `solver_ratio`: the median of the rounds' ratios.

The difference between `step_gap_ms` of `make bench` and `loop_ms` is the time to the experts' processes and back.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from benchmarks.harness.machine import provenance
from export.checkpoint.folder import Checkpoint
from wan_t2v.denoise import denoise
from wan_t2v.experts import Experts
from wan_t2v.latents import starting_noise
from wan_t2v.shapes import VideoShape
from wan_t2v.solvers.noise_levels import official_sigmas
from wan_t2v.solvers.unipc import UniPcSchedule


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency.loop_alone")
    parser.add_argument("--checkpoint", type=Path, default=Path("training/wan-mini"))
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    about = provenance()
    torch.set_num_threads(1)
    print(json.dumps({**measure(Checkpoint.open(options.checkpoint), options.rounds), **about}))
    return 0


def measure(checkpoint: Checkpoint, rounds: int) -> dict[str, Any]:
    """Measure milliseconds per step. Raises SystemExit if the two solvers end with different latents."""
    walks = _Walks(checkpoint)
    if not torch.equal(walks.ours(), walks.diffusers_own()):
        raise SystemExit("the two solvers end with different latents; see tests/unit/wan_t2v/solvers/test_unipc.py")
    walks.loop()
    ms: dict[str, list[float]] = {"loop_ms": [], "solver_ms": [], "diffusers_solver_ms": []}
    for _ in range(rounds):
        ms["loop_ms"].append(walks.step_ms(walks.loop))
        ms["solver_ms"].append(walks.step_ms(walks.ours))
        ms["diffusers_solver_ms"].append(walks.step_ms(walks.diffusers_own))
    ratios = [ours / theirs for ours, theirs in zip(ms["solver_ms"], ms["diffusers_solver_ms"], strict=True)]
    medians = {name: round(statistics.median(values), 3) for name, values in ms.items()}
    return {**medians, "solver_ratio": round(statistics.median(ratios), 3), "rounds": rounds}


class _Walks:
    """Generations from the same noise with the same velocity at every step."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._facts = checkpoint.facts
        fields = {name: field["value"] for name, field in checkpoint.defaults.items()}
        self._steps, self._shift = fields["num_inference_steps"], fields["flow_shift"]
        video = VideoShape(fields["num_frames"], fields["height"], fields["width"])
        shape = self._facts.grid.latent_shape(video)
        self._noise, self._velocity = starting_noise(shape, 0), starting_noise(shape, 1)

    def step_ms(self, walk: Callable[[], Tensor]) -> float:
        """Return the milliseconds per step of a generation."""
        started = time.perf_counter()
        walk()
        return float(1e3 * (time.perf_counter() - started) / self._steps)

    @torch.inference_mode()
    def ours(self) -> Tensor:
        """Generate with this project's solver alone."""
        schedule, latents = self._schedule(), self._noise
        for timestep in schedule.timesteps:
            latents = schedule.step(self._velocity, timestep, latents)
        return latents

    @torch.inference_mode()
    def diffusers_own(self) -> Tensor:
        """Generate with diffusers' solver alone."""
        solver = UniPCMultistepScheduler.from_config(dict(self._facts.scheduler), flow_shift=self._shift)
        solver.set_timesteps(sigmas=official_sigmas(self._steps))
        solver.set_begin_index(0)
        latents = self._noise
        for timestep in solver.timesteps.tolist():
            latents = solver.step(self._velocity, timestep, latents, return_dict=False)[0]
        return latents

    def loop(self) -> Tensor:
        """Generate with the whole denoising loop."""
        text = torch.zeros(1, 1, 1)
        answer = self._answer
        with ThreadPoolExecutor(1) as executor:
            return denoise(
                self._noise,
                self._schedule(),
                experts=Experts(answer, answer, boundary_timestep=self._facts.boundary_timestep),
                prompt_embeds=text,
                negative_prompt_embeds=text,
                guidance_scale=4.0,
                guidance_scale_2=3.0,
                executor=executor,
                after_step=lambda step: None,
            )

    def _answer(self, latents: Tensor, timestep: float, text_embeddings: Tensor) -> Tensor:
        return self._velocity

    def _schedule(self) -> UniPcSchedule:
        return UniPcSchedule(self._facts.scheduler, official_sigmas(self._steps), flow_shift=self._shift)


if __name__ == "__main__":
    sys.exit(main())
