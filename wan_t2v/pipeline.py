"""The whole pipeline as one function in one process: the steps that the repository's models run.

Serving does not call it. It is the reference: tests compare the server's bytes with its output.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from wan_t2v.denoise import denoise, experts_of_steps
from wan_t2v.engines.engine import Engine
from wan_t2v.experts import EngineExpert, Experts
from wan_t2v.facts import ModelFacts
from wan_t2v.frames import decode_frames
from wan_t2v.latents import starting_noise, vae_from_diffusion
from wan_t2v.mp4 import mp4_from_frames
from wan_t2v.request import Settings
from wan_t2v.schedule import make_schedule
from wan_t2v.step_profiles.step_reuse import StepReuse
from wan_t2v.tokens import PromptTokenizer, text_embeddings


@dataclass(frozen=True)
class Engines:
    """The five graphs."""

    text_encoder: Engine
    high_noise_expert: Engine
    low_noise_expert: Engine
    vae_decoder_first: Engine
    vae_decoder_next: Engine


def mp4_from_settings(
    settings: Settings,
    facts: ModelFacts,
    *,
    tokenizer: PromptTokenizer,
    engines: Engines,
    expert_type: torch.dtype | None = None,
    vae_type: torch.dtype = torch.float32,
) -> bytes:
    """Generate a video: prompts to embeddings, noise to clean latents, latents to frames to an MP4's bytes.

    `expert_type` is the experts' input type if it is not the text encoder's, `vae_type` that of the VAE's graphs.
    """
    texts = (settings.prompt, settings.negative_prompt)
    prompt_embeds, negative_embeds = (
        torch.as_tensor(text_embeddings(tokenizer(text), engines.text_encoder), dtype=expert_type) for text in texts
    )
    experts = Experts(
        EngineExpert(engines.high_noise_expert), EngineExpert(engines.low_noise_expert), facts.boundary_timestep
    )
    noise = starting_noise(facts.grid.latent_shape(settings.video_shape), settings.seed)
    schedule = make_schedule(settings, facts)
    with ThreadPoolExecutor(1) as executor:
        latents = denoise(
            noise,
            schedule,
            experts=experts,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_embeds if settings.guided else None,
            guidance_scale=settings.guidance_scale,
            guidance_scale_2=settings.guidance_scale_2,
            executor=executor,
            after_step=lambda step: None,
            reuse=StepReuse(settings.profile, experts_of_steps(schedule, experts), guided=settings.guided),
        )
    vae_latents = vae_from_diffusion(latents, facts.latents_mean, facts.latents_std).to(vae_type)
    pieces = decode_frames(vae_latents, engines.vae_decoder_first, engines.vae_decoder_next, latent_frames_per_call=5)
    return mp4_from_frames(torch.cat(list(pieces)).numpy(), fps=settings.fps)
