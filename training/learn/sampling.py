"""Generation with torch modules: serving's denoising loop and schedule, several prompts at a time."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from export.checkpoint.mini import BOUNDARY_RATIO, FLOW_SHIFT
from export.parity.teacher_forced import TorchExpert
from training.learn.flow_matching import TRAIN_TIMESTEPS
from training.learn.served_defaults import served_default
from training.learn.text_embeddings import text_embeddings
from training.learn.vae_stage import frames_from_vae
from training.learn.whole_clip import decode_whole
from training.world.render import Frames
from wan_t2v.denoise import Step, denoise
from wan_t2v.experts import Experts
from wan_t2v.latents import starting_noise, vae_from_diffusion
from wan_t2v.schedule import Schedule
from wan_t2v.shapes import LatentGrid, LatentShape, VideoShape
from wan_t2v.solvers.euler import EulerSchedule
from wan_t2v.solvers.noise_levels import official_sigmas, shifted_sigmas
from wan_t2v.solvers.unipc import UniPcSchedule


@dataclass(frozen=True)
class SamplingSettings:
    """Sampling settings. The defaults are serving's."""

    steps: int = int(served_default("num_inference_steps"))
    guidance_scale: float = served_default("guidance_scale")
    guidance_scale_2: float = served_default("guidance_scale_2")
    flow_shift: float = served_default("flow_shift")
    solver: str = "unipc"

    def schedule(self) -> Schedule:
        """Create the schedule of one generation."""
        if self.solver == "euler":
            sigmas = shifted_sigmas(self.steps, self.flow_shift)
            return EulerSchedule(sigmas, num_train_timesteps=TRAIN_TIMESTEPS)
        return UniPcSchedule(scheduler_config(), official_sigmas(self.steps), flow_shift=self.flow_shift)


@dataclass(frozen=True)
class Modules:
    """Modules of a generation. Both experts may be the same module."""

    tokenizer: PreTrainedTokenizerFast
    text_encoder: UMT5EncoderModel
    high_noise_expert: WanTransformer3DModel
    low_noise_expert: WanTransformer3DModel
    vae: AutoencoderKLWan


class InThisThread(Executor):
    """Executor that runs calls in the current thread, since autocast and no_grad apply to one thread only."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> "Future[Any]":
        """Call the function and return a finished future."""
        future: Future[Any] = Future()
        future.set_result(function(*arguments, **named))
        return future


def scheduler_config() -> Mapping[str, Any]:
    """Return the checkpoint's `scheduler_config.json`."""
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT)
    return dict(scheduler.config)


@torch.no_grad()
def generate_latents(
    modules: Modules,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    shape: LatentShape,
    settings: SamplingSettings,
    schedule: Schedule | None = None,
    after_step: Callable[[Step], None] = lambda step: None,
) -> Tensor:
    """Generate normalised latents (B, 16, n+1, h, w), one clip per prompt and seed.

    `schedule` replaces that of the settings. `after_step` is called after every step.
    """
    device = modules.vae.device
    experts = Experts(
        TorchExpert(modules.high_noise_expert, modules.high_noise_expert.dtype),
        TorchExpert(modules.low_noise_expert, modules.low_noise_expert.dtype),
        boundary_timestep=BOUNDARY_RATIO * TRAIN_TIMESTEPS,
    )
    noise = torch.cat([starting_noise(shape, seed) for seed in seeds]).to(device)
    texts = text_embeddings(modules.text_encoder, modules.tokenizer, captions=[*prompts, *[""] * len(prompts)])
    prompt_embeds, negative_embeds = texts.chunk(2)
    with InThisThread() as executor:
        return denoise(
            noise,
            schedule or settings.schedule(),
            experts=experts,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_embeds if settings.guidance_scale > 1.0 else None,
            guidance_scale=settings.guidance_scale,
            guidance_scale_2=settings.guidance_scale_2,
            executor=executor,
            after_step=after_step,
        )


@torch.no_grad()
def decode_latents(vae: AutoencoderKLWan, latents: Tensor) -> list[Frames]:
    """Decode normalised latents (B, 16, n+1, h, w) to clips (T, H, W, 3) uint8, with the statistics in the config."""
    scaled = vae_from_diffusion(latents, vae.config.latents_mean, vae.config.latents_std)
    return [frames_from_vae(decode_whole(vae, one))[0] for one in scaled.split(1)]


def generate_clips(
    modules: Modules,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    shape: LatentShape,
    settings: SamplingSettings = SamplingSettings(),
) -> list[Frames]:
    """Generate clips (T, H, W, 3) uint8, one per prompt and seed."""
    return decode_latents(modules.vae, generate_latents(modules, prompts, seeds=seeds, shape=shape, settings=settings))


def latent_shape(video: VideoShape) -> LatentShape:
    """Return the latent shape of a wan-mini clip."""
    return LatentGrid(channels=16, time_stride=4, space_stride=8, patch=2).latent_shape(video)
