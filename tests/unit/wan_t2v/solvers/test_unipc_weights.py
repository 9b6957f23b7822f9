"""Options of the solver, and how many estimates each step rests on."""

import pytest
import torch

from wan_t2v.solvers.unipc_weights import UniPcOptions, UniPcWeights


@pytest.mark.parametrize(
    ("order", "steps", "expected"),
    [(1, 3, [1, 1, 1]), (2, 1, [1]), (2, 5, [1, 2, 2, 2, 1]), (3, 6, [1, 2, 3, 3, 2, 1]), (3, 2, [1, 1])],
)
def test_orders_rise_in_the_beginning_and_fall_at_the_end(order: int, steps: int, expected: list[int]) -> None:
    options = UniPcOptions(solver_order=order)
    assert [options.order_of(step, steps) for step in range(steps)] == expected


def test_options_are_read_by_diffusers_names() -> None:
    config = {"solver_order": 3, "disable_corrector": [0, 2], "flow_shift": 5.0, "_class_name": "any"}
    assert UniPcOptions.of_config(config) == UniPcOptions(solver_order=3, disable_corrector=(0, 2))
    assert UniPcOptions.of_config({}) == UniPcOptions()


def test_the_last_step_ends_at_the_newest_estimate() -> None:
    """At the level 0 nothing is left of the latents: `0 * x + 1 * m0`."""
    weights = UniPcWeights.of_levels(torch.tensor([0.9, 0.6, 0.3, 0.0]), UniPcOptions())
    assert (weights.predict[-1].sample, weights.predict[-1].change, weights.predict[-1].terms) == (0.0, -1.0, ())
    assert [len(update.terms) for update in weights.predict] == [0, 1, 0]
    assert [len(update.terms) for update in weights.correct] == [1, 2, 1]
