"""UniPC's weights of all steps, computed at once from the noise levels alone.

diffusers' solver recomputes them at each step, in about a hundred operations on single numbers: a millisecond on a CPU,
and a hundred kernel launches on a GPU. This module runs the same operations in the same order on vectors over the
steps, so that the latents are bit-identical on a CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class UniPcOptions:
    """Options of diffusers' UniPCMultistepScheduler that shape a step, by its names; the export refuses other ones.

    `disable_corrector` has the steps, from 0, whose result is left as predicted.
    """

    num_train_timesteps: int = 1000
    solver_order: int = 2
    disable_corrector: tuple[int, ...] = ()

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> "UniPcOptions":
        """Read the options from a `scheduler_config.json`; missing ones take diffusers' defaults."""
        given = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        return cls(**{**given, "disable_corrector": tuple(given.get("disable_corrector", ()))})

    def order_of(self, step: int, steps: int) -> int:
        """Return the number of estimates that a step (from 0) uses: fewer at the beginning and at the end."""
        return min(self.solver_order, steps - step, step + 1)


@dataclass(frozen=True)
class UpdateWeights:
    """Weights of one update, from a noise level to the next.

    `sample * x - change * m0 - change * (sum of terms[k] * (m[k] - m0) / ratios[k])`, where x are the latents, m0 the
    newest estimate of the clean ones at the first level and m[k] earlier ones. A corrector has one more term, for the
    estimate at the second level, whose ratio is 1.
    """

    sample: float
    change: float
    ratios: tuple[float, ...]
    terms: tuple[float, ...]


@dataclass(frozen=True)
class UniPcWeights:
    """Weights of all steps of a generation: `predict[i]` leads from level i to i + 1, as does `correct[i]`."""

    predict: Sequence[UpdateWeights]
    correct: Sequence[UpdateWeights]

    @classmethod
    def of_levels(cls, sigmas: Tensor, options: UniPcOptions) -> "UniPcWeights":
        """Compute the weights for noise levels (steps + 1) float32 that end at 0."""
        steps = len(sigmas) - 1
        predict, correct = [_NONE] * steps, [_NONE] * steps
        orders = [options.order_of(step, steps) for step in range(steps)]
        for order in sorted(set(orders)):
            of_order = [step for step, its_order in enumerate(orders) if its_order == order]
            levels = _Levels(sigmas, torch.tensor(of_order), order)
            for i, step in enumerate(of_order):
                predict[step], correct[step] = levels.weights(i, corrects=False), levels.weights(i, corrects=True)
        return cls(predict, correct)


_NONE = UpdateWeights(0.0, 0.0, (), ())


class _Levels:
    """Weights of all steps of one order, as vectors, by the formulas of UniPC (arXiv 2302.04867, section 3.2)."""

    def __init__(self, sigmas: Tensor, starts: Tensor, order: int) -> None:
        signal, snr = 1 - sigmas, torch.log(1 - sigmas) - torch.log(sigmas)
        h = snr[starts + 1] - snr[starts]
        earlier = [(snr[starts - k] - snr[starts]) / h for k in range(1, order)]
        h_phi_1 = torch.expm1(-h)  # also B(h), in the form bh2 of the paper
        self._order = order
        self._sample = (sigmas[starts + 1] / sigmas[starts]).tolist()
        self._change = (signal[starts + 1] * h_phi_1).tolist()
        ratios = torch.stack([*earlier, torch.ones_like(h)], dim=1)  # (steps, order)
        self._ratios = ratios[:, :-1].tolist()
        equations = torch.stack([ratios.pow(power) for power in range(order)], dim=1)
        right = torch.stack(_right_sides(-h, h_phi_1, order), dim=1)
        half = torch.full((len(starts), 1), 0.5)
        # the shortened solutions of the paper for one unknown, as diffusers has them
        self._corrector = (half if order == 1 else torch.linalg.solve(equations, right)).tolist()
        self._predictor = half.tolist() if order == 2 else [()] * len(starts)
        if order > 2:
            self._predictor = torch.linalg.solve(equations[:, :-1, :-1], right[:, :-1]).tolist()

    def weights(self, i: int, *, corrects: bool) -> UpdateWeights:
        """Weights of the i-th of these steps."""
        terms = self._corrector[i] if corrects else self._predictor[i]
        return UpdateWeights(self._sample[i], self._change[i], tuple(self._ratios[i]), tuple(terms))


def _right_sides(minus_h: Tensor, h_phi_1: Tensor, order: int) -> list[Tensor]:
    """Return `h_phi_k * k! / B(h)` for k from 1 to the order, each (steps,)."""
    sides, h_phi_k, factorial = [], h_phi_1 / minus_h - 1, 1
    for k in range(1, order + 1):
        sides.append(h_phi_k * factorial / h_phi_1)
        factorial *= k + 1
        h_phi_k = h_phi_k / minus_h - 1 / factorial
    return sides
