"""Classifier-free guidance (arXiv 2207.12598): two passes of one expert, extrapolated from the negative prompt."""

from concurrent.futures import Executor
from dataclasses import dataclass

from torch import Tensor

from wan_t2v.experts import Expert


@dataclass(frozen=True)
class Velocities:
    """One step's velocities (1, C, F, H, W), of the prompt and of the negative prompt; None without a negative pass."""

    conditional: Tensor
    negative: Tensor | None

    def guided(self, guidance_scale: float) -> Tensor:
        """Return `negative + guidance_scale * (conditional - negative)`; without a negative pass, `conditional`."""
        if self.negative is None:
            return self.conditional
        return self.negative + guidance_scale * (self.conditional - self.negative)


def compute_velocities(
    expert: Expert,
    latents: Tensor,
    timestep: float,
    *,
    prompt_embeds: Tensor,
    negative_prompt_embeds: Tensor | None,
    executor: Executor,
) -> Velocities:
    """Run one step's passes; without negative embeddings only the conditional one.

    The passes are independent and are submitted at the same time. The engine behind `expert` decides whether they
    queue, form one batch or run on two devices.
    """
    if negative_prompt_embeds is None:
        return Velocities(expert(latents, timestep, prompt_embeds), None)
    pending = executor.submit(expert, latents, timestep, negative_prompt_embeds)
    try:
        conditional = expert(latents, timestep, prompt_embeds)
    finally:
        negative = pending.result()  # also after a failure: no pass may outlive its request
    return Velocities(conditional, negative)
