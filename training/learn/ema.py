"""Exponential moving average of a module's weights, from which samples are shown and the result is saved."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average over about `1 / (1 - decay)` steps, and over fewer at the beginning."""

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, *, step: int) -> None:
        """Update the average with the module's weights after training step `step` (from 1)."""
        decay = min(self.decay, step / (10.0 + step))
        names, values = zip(*module.named_parameters(), strict=True)
        torch._foreach_lerp_([self.weights[name] for name in names], list(values), 1.0 - decay)

    @contextlib.contextmanager
    def in_place_of(self, module: nn.Module) -> Iterator[None]:
        """Give the module the averaged weights inside the `with` block, and restore its own afterwards."""
        trained = {name: value.detach().clone() for name, value in module.named_parameters()}
        put_weights(module, weights=self.weights)
        try:
            yield
        finally:
            put_weights(module, weights=trained)


@torch.no_grad()
def put_weights(module: nn.Module, *, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a module by parameter name. Tied weights have one name."""
    for name, value in module.named_parameters():
        value.copy_(weights[name])
