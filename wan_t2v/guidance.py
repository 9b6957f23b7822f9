"""Classifier-free guidance: two passes of one expert, extrapolated away from the negative prompt."""

from concurrent.futures import Executor

from torch import Tensor

from wan_t2v.experts import Expert


def guided_velocity(
    expert: Expert,
    latents: Tensor,
    timestep: int,
    *,
    prompt_embeds: Tensor,
    negative_prompt_embeds: Tensor | None,
    guidance_scale: float,
    executor: Executor,
) -> Tensor:
    """Velocity (1, C, F, H, W): `negative + guidance_scale * (conditional - negative)` in float32.

    The passes do not depend on each other and run at the same time; what executes them decides whether they queue,
    merge or run on two devices. Without negative embeddings only the conditional pass runs.
    """
    if negative_prompt_embeds is None:
        return expert(latents, timestep, prompt_embeds)
    pending = executor.submit(expert, latents, timestep, negative_prompt_embeds)
    try:
        conditional = expert(latents, timestep, prompt_embeds)
    finally:
        negative = pending.result()  # also after a failure: no pass may outlive its request
    return negative + guidance_scale * (conditional - negative)
