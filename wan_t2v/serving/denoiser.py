"""Embeddings and noise to clean latents: the denoising loop, each pass a call to an expert through the server."""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from wan_t2v.cancellation import Cancelled
from wan_t2v.denoise import Step, denoise
from wan_t2v.experts import HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT, EngineExpert, Experts
from wan_t2v.facts import ModelFacts
from wan_t2v.latents import starting_noise
from wan_t2v.request import Settings
from wan_t2v.schedule import Schedule
from wan_t2v.serving.answers import answered
from wan_t2v.serving.parameters import ModelParameters, graph_identity, instance_device
from wan_t2v.serving.remote import RemoteEngine
from wan_t2v.serving.tensors import bytes_from_triton, text_to_triton, to_triton, torch_from_triton


class Denoiser:
    """The model `denoiser`."""

    def __init__(self, pb_utils: Any, args: Mapping[str, str]) -> None:
        parameters = ModelParameters.from_args(args)
        # The solver's arithmetic on latents is too small to share; its idle threads would take cores from the experts.
        torch.set_num_threads(1)
        self._pb_utils = pb_utils
        self._device = instance_device(args)
        self._facts = ModelFacts.read(parameters.version_folder)
        self._experts = Experts(
            high_noise_expert=EngineExpert(RemoteEngine(pb_utils, HIGH_NOISE_EXPERT, read=torch_from_triton)),
            low_noise_expert=EngineExpert(RemoteEngine(pb_utils, LOW_NOISE_EXPERT, read=torch_from_triton)),
            boundary_timestep=self._facts.boundary_timestep,
        )
        self._identities = {name: graph_identity(parameters, name) for name in (HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT)}
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="negative-pass")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's entry point."""
        return answered(self._pb_utils, requests, self._answer)

    def finalize(self) -> None:
        """Triton's exit point."""
        self._executor.shutdown()

    def _answer(self, request: Any) -> list[Any]:
        started = time.monotonic()
        tensors = {tensor.name(): tensor for tensor in request.inputs()}
        settings = Settings.from_json(bytes_from_triton(tensors["settings"]))
        steps: list[Step] = []

        def after_step(step: Step) -> None:
            steps.append(step)
            if request.is_cancelled():
                raise Cancelled(f"cancelled after step {step.index} of {step.count}")

        latents = self._denoised(tensors, settings, after_step)
        report = {
            "graphs": self._identities,
            "steps": {name: sum(step.expert == name for step in steps) for name in self._identities},
            "timesteps": [step.timestep for step in steps],
            "denoise_ms": 1e3 * (time.monotonic() - started),
        }
        none = latents[:0]
        wanted = settings.output_type == "latents"
        return [
            to_triton(self._pb_utils, "latents_to_decode", none if wanted else latents),
            to_triton(self._pb_utils, "latents_to_return", latents if wanted else none),
            text_to_triton(self._pb_utils, "denoise_report", json.dumps(report)),
        ]

    def _denoised(self, tensors: Mapping[str, Any], settings: Settings, after_step: Any) -> Tensor:
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
            experts=self._experts,
            prompt_embeds=embeds,
            negative_prompt_embeds=negative if settings.guided else None,
            guidance_scale=settings.guidance_scale,
            guidance_scale_2=settings.guidance_scale_2,
            executor=self._executor,
            after_step=after_step,
        )
