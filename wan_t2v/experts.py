"""The two experts: which one runs at a timestep, and how one is called."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wan_t2v.contract import EXPERTS
from wan_t2v.engines.engine import Engine
from wan_t2v.engines.reads import wait_for_reads

HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT = EXPERTS


class Expert(Protocol):
    """One forward pass: latents (1, C, F, H, W) float32 and embeddings (1, L, D) to the flow velocity, as latents."""

    def __call__(self, latents: Tensor, timestep: float, text_embeddings: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Experts:
    """Both experts, and the lowest timestep at which the high-noise one runs (875.0 for Wan2.2-T2V-A14B)."""

    high_noise_expert: Expert
    low_noise_expert: Expert
    boundary_timestep: float

    def name_at(self, timestep: float) -> str:
        """Return the expert that runs at this timestep; at the boundary itself that is the high-noise one."""
        return HIGH_NOISE_EXPERT if timestep >= self.boundary_timestep else LOW_NOISE_EXPERT

    def __getitem__(self, name: str) -> Expert:
        return self.high_noise_expert if name == HIGH_NOISE_EXPERT else self.low_noise_expert


class EngineExpert:
    """An Expert over an Engine that runs the exported graph. It casts latents to the embeddings' precision."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __call__(self, latents: Tensor, timestep: float, text_embeddings: Tensor) -> Tensor:
        inputs = {
            "hidden_states": latents.to(text_embeddings.dtype),
            "timestep": torch.full((latents.shape[0], 1), float(timestep), device=latents.device),
            "encoder_hidden_states": text_embeddings,
        }
        output = self._engine(inputs, ["velocity"])["velocity"]
        velocity = torch.as_tensor(output, device=latents.device)
        velocity = velocity.to(torch.float32, copy=velocity.is_cuda)  # else FP32 would stay a view of the output
        wait_for_reads(output)
        return velocity
