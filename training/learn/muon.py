"""Muon optimiser: orthogonalised momentum, so that every direction of a weight matrix learns at the same rate.

Weights of convolutions and linear layers count as matrices (out, all other axes); other parameters need AdamW. Updates
are scaled to the size of AdamW's, so both can use one learning rate. Source: Jordan et al. 2024, "Muon: An optimizer
for hidden layers in neural networks".
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.learn.device import multiplies_bf16

POLYNOMIAL = (3.4445, -4.7750, 2.0315)  # Newton-Schulz, tuned for speed: singular values come near 1, not to 1
ITERATIONS = 5
ADAMW_SIZE = 0.2  # root mean square of a typical AdamW update


class Muon(torch.optim.Optimizer):
    """Optimiser with orthogonalised Nesterov momentum, for matrices only."""

    def __init__(self, parameters: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # without a closure
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.flatten(1).shape].append(parameter)
            for parameters in by_shape.values():
                self._step_alike(parameters, group)

    def _step_alike(self, parameters: list[Tensor], group: dict[str, float]) -> None:
        """Update parameters whose matrices have the same shape, orthogonalised as one batch."""
        matrices = torch.stack([self._momentum(parameter, group["momentum"]) for parameter in parameters])
        scale = ADAMW_SIZE * max(matrices.shape[1:]) ** 0.5
        for parameter, update in zip(parameters, orthogonal(matrices), strict=True):
            parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
            parameter.add_(update.view(parameter.shape), alpha=-group["lr"] * scale)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        assert parameter.grad is not None  # `step` skips parameters without a gradient
        gradient = parameter.grad.flatten(1)
        buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(gradient))
        buffer.lerp_(gradient, 1.0 - momentum)
        return gradient.lerp(buffer, momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """Approximate the nearest semi-orthogonal matrices of (N, rows, columns), in float32."""
    tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.transpose(1, 2) if tall else matrices
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    wide = wide.to(torch.bfloat16 if multiplies_bf16(wide.device) else torch.float32)
    linear, cubic, quintic = POLYNOMIAL
    for _ in range(ITERATIONS):
        gram = wide @ wide.transpose(1, 2)
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), wide, beta=linear)
    return (wide.transpose(1, 2) if tall else wide).float()


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a weight of a linear layer or convolution, not a table, norm, bias or embedding."""
    return (
        parameter.ndim >= 2
        and name.endswith("weight")
        and min(parameter.flatten(1).shape) > 3
        and not ("embed_tokens" in name or "shared" in name or "relative_attention_bias" in name)
    )
