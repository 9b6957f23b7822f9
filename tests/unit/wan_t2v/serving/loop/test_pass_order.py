"""The passes of a step in turn: who leaves during the first never gets the second."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from wan_t2v.cancellation import Cancelled
from wan_t2v.experts import Experts
from wan_t2v.guidance import compute_velocities
from wan_t2v.serving.errors import ParameterError
from wan_t2v.serving.loop.pass_order import InlineExecutor, cancellable_experts, pass_executor, passes_in_turn
from wan_t2v.serving.python_backend.parameters import ModelParameters


def one_step(stay: int) -> list[float]:
    """The embeddings of the passes that ran, if the caller is there for the first `stay` questions."""
    ran: list[float] = []

    def expert(latents: Tensor, timestep: int, text_embeddings: Tensor) -> Tensor:
        ran.append(float(text_embeddings))
        return latents

    questions = iter(range(100))
    experts = cancellable_experts(Experts(expert, expert, 875.0), lambda: next(questions) >= stay)
    latents, embeds = torch.ones(1), torch.ones(1)
    try:
        compute_velocities(
            experts.high_noise_expert,
            latents,
            999,
            prompt_embeds=embeds,
            negative_prompt_embeds=2 * embeds,
            executor=InlineExecutor(),
        )
    except Cancelled:
        ran.append(-1.0)
    return ran


@pytest.mark.parametrize(("stay", "ran"), [(0, [-1.0]), (1, [2.0, -1.0]), (2, [2.0, 1.0])])
def test_who_leaves_stops_the_next_pass(stay: int, ran: list[float]) -> None:
    assert one_step(stay) == ran


def test_together_is_the_default_and_another_word_is_refused(tmp_path) -> None:
    def parameters(**values: str) -> ModelParameters:
        return ModelParameters("denoiser", tmp_path, values)

    assert not passes_in_turn(parameters()) and passes_in_turn(parameters(guidance_passes="in_turn"))
    with pytest.raises(ParameterError, match="guidance_passes is 'never', accepted: together, in_turn"):
        passes_in_turn(parameters(guidance_passes="never"))


def test_what_runs_the_other_pass_is_chosen_by_it() -> None:
    assert isinstance(pass_executor(True, 4), InlineExecutor)
    with pass_executor(False, 1) as threads:
        assert isinstance(threads, ThreadPoolExecutor)
