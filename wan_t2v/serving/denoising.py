"""The denoising loop over the experts of this server: what the models `denoiser` and `text_to_video_stream` run."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor

from wan_t2v.cancellation import Cancelled
from wan_t2v.denoise import Step, denoise
from wan_t2v.experts import HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT, EngineExpert, Experts
from wan_t2v.facts import ModelFacts
from wan_t2v.latents import starting_noise
from wan_t2v.request import Settings
from wan_t2v.schedule import Schedule
from wan_t2v.serving.expert_swap import ExpertSwap, swap_report, swaps_experts
from wan_t2v.serving.parameters import ModelParameters, graph_identity, instance_device
from wan_t2v.serving.remote import RemoteEngine
from wan_t2v.serving.tensors import torch_from_triton


class Denoising:
    """Runs the loop for one request at a time in each thread, `at_once` threads at most."""

    def __init__(self, pb_utils: Any, args: Mapping[str, str], *, at_once: int = 1) -> None:
        parameters = ModelParameters.from_args(args)
        self._device = instance_device(args)
        self._facts = ModelFacts.read(parameters.version_folder)
        self._experts = Experts(
            high_noise_expert=EngineExpert(RemoteEngine(pb_utils, HIGH_NOISE_EXPERT, read=torch_from_triton)),
            low_noise_expert=EngineExpert(RemoteEngine(pb_utils, LOW_NOISE_EXPERT, read=torch_from_triton)),
            boundary_timestep=self._facts.boundary_timestep,
        )
        self._swap = ExpertSwap.of_server(pb_utils, parameters, self._device) if swaps_experts(parameters) else None
        self._identities = {name: graph_identity(parameters, name) for name in (HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT)}
        self._executor = ThreadPoolExecutor(at_once, thread_name_prefix="negative-pass")

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown()

    def latents(
        self,
        tensors: Mapping[str, Any],
        settings: Settings,
        *,
        is_cancelled: Callable[[], bool],
        after_step: Callable[[Step], None] = lambda step: None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Clean latents (1, C, F, h, w) float32, and the report that goes into the metadata.

        `tensors` are Triton's: `prompt_embeds`, `negative_prompt_embeds` and perhaps `latents`, the starting noise.
        Raises Cancelled after the step in which the caller left, ModelCallError.
        """
        started = time.monotonic()
        steps: list[Step] = []

        def finished(step: Step) -> None:
            steps.append(step)
            after_step(step)
            if is_cancelled():
                raise Cancelled(f"cancelled after step {step.index} of {step.count}")

        with self._experts_for(is_cancelled) as experts:
            latents = self._denoised(tensors, settings, experts=experts, after_step=finished)
        return latents, {
            "graphs": self._identities,
            "steps": {name: sum(step.expert == name for step in steps) for name in self._identities},
            "timesteps": [step.timestep for step in steps],
            "denoise_ms": 1e3 * (time.monotonic() - started),
            **swap_report(experts),
        }

    @contextlib.contextmanager
    def _experts_for(self, is_cancelled: Callable[[], bool]) -> Iterator[Experts]:
        if self._swap is None:
            yield self._experts
        else:
            with self._swap.turn(self._experts, is_cancelled) as experts:
                yield experts

    def _denoised(
        self, tensors: Mapping[str, Any], settings: Settings, *, experts: Experts, after_step: Callable[[Step], None]
    ) -> Tensor:
        if "latents" in tensors:
            latents = torch_from_triton(tensors["latents"]).clone()
        else:
            latents = starting_noise(self._facts.grid.latent_shape(settings.video_shape), settings.seed)
        embeds, negative = (
            torch_from_triton(tensors[name]).to(self._device) for name in ("prompt_embeds", "negative_prompt_embeds")
        )
        return denoise(
            latents.to(self._device),
            Schedule(
                self._facts.scheduler,
                num_inference_steps=settings.num_inference_steps,
                flow_shift=settings.flow_shift,
            ),
            experts=experts,
            prompt_embeds=embeds,
            negative_prompt_embeds=negative if settings.guided else None,
            guidance_scale=settings.guidance_scale,
            guidance_scale_2=settings.guidance_scale_2,
            executor=self._executor,
            after_step=after_step,
        )
