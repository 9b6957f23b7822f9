"""The denoising loop over the experts of this server, for the models `denoiser` and `text_to_video_stream`."""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wan_t2v.cancellation import Cancelled
from wan_t2v.contract import EXPERTS
from wan_t2v.denoise import Step, denoise, experts_of_steps
from wan_t2v.experts import HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT, EngineExpert, Experts
from wan_t2v.facts import FACTS_FILE, ModelFacts
from wan_t2v.latents import starting_noise
from wan_t2v.request import Settings
from wan_t2v.schedule import Schedule, make_schedule
from wan_t2v.serving.loop.expert_swap import ExpertSwap, Loading, swap_report, swaps_experts
from wan_t2v.serving.loop.pass_order import cancellable_experts, pass_executor, passes_in_turn
from wan_t2v.serving.model_files import check_model_files
from wan_t2v.serving.python_backend.graph_types import GRAPH_TYPES
from wan_t2v.serving.python_backend.model_call import TritonEngine
from wan_t2v.serving.python_backend.parameters import (
    ModelParameters,
    graph_build,
    graph_identity,
    graph_loras,
    instance_device,
)
from wan_t2v.serving.python_backend.tensors import torch_from_triton
from wan_t2v.serving.resume.checkpoint_file import GenerationIdentity, SavedState
from wan_t2v.serving.resume.resume import CheckpointWriter, identify_generation
from wan_t2v.step_profiles.step_reuse import StepReuse


class DenoiseLoop:
    """Runs the loop for one request per thread, in at most `at_once` threads."""

    def __init__(self, pb_utils: Any, args: Mapping[str, str], *, at_once: int = 1) -> None:
        parameters = ModelParameters.from_args(args)
        self._device = instance_device(args)
        check_model_files(parameters.version_folder, (FACTS_FILE,), graphs=EXPERTS)
        self._facts = ModelFacts.read(parameters.version_folder)
        self._experts = Experts(
            high_noise_expert=EngineExpert(TritonEngine(pb_utils, HIGH_NOISE_EXPERT, read=torch_from_triton)),
            low_noise_expert=EngineExpert(TritonEngine(pb_utils, LOW_NOISE_EXPERT, read=torch_from_triton)),
            boundary_timestep=self._facts.boundary_timestep,
        )
        self._swap = ExpertSwap.of_server(pb_utils, parameters, self._device) if swaps_experts(parameters) else None
        self._expert_type = _expert_type(parameters)
        self._identities = {name: graph_identity(parameters, name) for name in EXPERTS}
        self._builds = {
            **{name: graph_build(parameters, name) for name in self._identities},
            "model_facts": self._facts.to_json(),  # of the schedule, and of the switch between the experts
        }
        self._loras = {name: merged for name in self._identities if (merged := graph_loras(parameters, name))}
        self._in_turn = passes_in_turn(parameters)
        self._executor = pass_executor(self._in_turn, at_once)

    def close(self) -> None:
        """Stop the threads of the passes."""
        self._executor.shutdown()

    def compute_latents(
        self,
        tensors: Mapping[str, Any],
        settings: Settings,
        *,
        is_cancelled: Callable[[], bool],
        after_step: Callable[[Step], object] = lambda step: None,
        checkpoint: CheckpointWriter | None = None,
        loading: Loading = contextlib.nullcontext,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Compute the clean latents (1, C, F, h, w) float32, and the report that goes into the metadata.

        `tensors` are Triton's: `prompt_embeds`, `negative_prompt_embeds` and perhaps `latents`, the starting noise.
        With `checkpoint` the generation resumes from it and writes new ones. `loading` is a context around each load
        of an expert, if only one expert at a time is in memory.
        Raises Cancelled after the step, or between the passes, in which the caller cancelled. Raises ModelCallError if
        an expert fails, and KeyOfAnotherRequest if the checkpoint is of a request with other fields.
        """
        started = time.monotonic()
        given = self._loop_tensors(tensors, settings)
        start = self._begin(settings, given, checkpoint, from_request=tensors.keys() & {"latents"})

        def finished(step: Step) -> None:
            if checkpoint and start.identity:
                checkpoint.save_after(step, start.identity, schedule=start.schedule, reuse=start.reuse)
            after_step(step)
            if is_cancelled():
                raise Cancelled(f"cancelled after step {step.index} of {step.count}")

        with self._experts_for(is_cancelled, loading) as experts:
            pass_experts = cancellable_experts(experts, is_cancelled) if self._in_turn else experts
            latents = self._denoise(given, settings, start, experts=pass_experts, after_step=finished)
        denoise_ms = 1e3 * (time.monotonic() - started)
        return latents, {**self._report(start), **swap_report(experts), "denoise_ms": denoise_ms}

    def _begin(
        self,
        settings: Settings,
        given: Mapping[str, Tensor],
        checkpoint: CheckpointWriter | None,
        *,
        from_request: Collection[str],
    ) -> "_Start":
        """Make the state before the first step, or restore the one of a checkpoint. Raises KeyOfAnotherRequest."""
        schedule = make_schedule(settings, self._facts)
        reuse = StepReuse(settings.profile, experts_of_steps(schedule, self._experts), guided=settings.guided)
        if checkpoint is None:
            return _Start(schedule, reuse)
        identity = identify_generation(settings, given, self._builds, given=from_request)
        saved = checkpoint.saved_state(identity)
        if saved:
            schedule.restore({name: tensor.to(self._device) for name, tensor in saved.solver.items()})
            reuse.restore({name: tensor.to(self._device) for name, tensor in saved.reuse.items()})
        return _Start(schedule, reuse, identity, saved)

    def _report(self, start: "_Start") -> dict[str, Any]:
        names = experts_of_steps(start.schedule, self._experts)
        return {
            "graphs": self._identities,
            "steps": {name: names.count(name) for name in self._identities},
            "timesteps": list(start.schedule.timesteps),
            "passes": start.reuse.passes,
            "passes_saved": start.reuse.passes_saved,
            **({"loras": self._loras} if self._loras else {}),
            **({"resumed_after_step": start.saved.steps_done} if start.saved else {}),
        }

    @contextlib.contextmanager
    def _experts_for(self, is_cancelled: Callable[[], bool], loading: Loading) -> Iterator[Experts]:
        if self._swap is None:
            yield self._experts
        else:
            with self._swap.turn(self._experts, is_cancelled, loading) as experts:
                yield experts

    def _loop_tensors(self, tensors: Mapping[str, Any], settings: Settings) -> dict[str, Tensor]:
        """Return the starting noise and the embeddings, on the loop's device and in the experts' type."""
        if "latents" in tensors:
            latents = torch_from_triton(tensors["latents"]).clone()
        else:
            latents = starting_noise(self._facts.grid.latent_shape(settings.video_shape), settings.seed)
        # + 0.0: the rows of padding may be -0.0, which gives the same video and must hash as the same request
        embeds = {
            name: torch_from_triton(tensors[name]).to(self._device, self._expert_type) + 0.0
            for name in ("prompt_embeds", "negative_prompt_embeds")
        }
        return {"latents": latents.to(self._device), **embeds}

    def _denoise(
        self,
        given: Mapping[str, Tensor],
        settings: Settings,
        start: "_Start",
        *,
        experts: Experts,
        after_step: Callable[[Step], None],
    ) -> Tensor:
        saved = start.saved
        return denoise(
            saved.latents.to(self._device) if saved else given["latents"],
            start.schedule,
            experts=experts,
            prompt_embeds=given["prompt_embeds"],
            negative_prompt_embeds=given["negative_prompt_embeds"] if settings.guided else None,
            guidance_scale=settings.guidance_scale,
            guidance_scale_2=settings.guidance_scale_2,
            executor=self._executor,
            after_step=after_step,
            steps_done=saved.steps_done if saved else 0,
            reuse=start.reuse,
        )


@dataclass(frozen=True)
class _Start:
    """Where a generation starts: at step 1, or after the steps of `saved`. `identity` is None without a checkpoint."""

    schedule: Schedule
    reuse: StepReuse
    identity: GenerationIdentity | None = None
    saved: SavedState | None = None


def _expert_type(parameters: ModelParameters) -> torch.dtype | None:
    """Return the experts' input type if it is not the text encoder's; None leaves embeddings as they are.

    Raises ParameterError.
    """
    if "expert_precision" not in parameters.values:
        return None
    return GRAPH_TYPES[parameters.choice("expert_precision", tuple(GRAPH_TYPES), "")]
