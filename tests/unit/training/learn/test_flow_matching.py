"""Flow matching: sigmas where serving goes, the path and its velocity, text embeddings as serving computes them."""

import pytest
import torch

from export.checkpoint.mini import BOUNDARY_RATIO
from export.graphs.text_encoder import TextEncoderGraph
from training.learn import flow_matching
from training.learn.expert_stage import PARTS
from training.learn.modules import WIDTH, new_text_encoder
from training.learn.sampling import scheduler_config
from training.learn.text_embeddings import text_embeddings
from training.stages import new_tokenizer
from wan_t2v.experts import HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT
from wan_t2v.solvers.noise_levels import official_sigmas
from wan_t2v.solvers.unipc import UniPcSchedule


def _drawn(name: str, count: int = 4096) -> torch.Tensor:
    lowest, highest, _ = PARTS[name]
    return flow_matching.draw_sigmas(count, lowest=lowest, highest=highest, random=torch.Generator().manual_seed(0))


def test_each_expert_learns_the_timesteps_on_its_side_of_the_boundary() -> None:
    assert _drawn(HIGH_NOISE_EXPERT).min() >= BOUNDARY_RATIO - 1e-6
    assert _drawn(LOW_NOISE_EXPERT).max() <= BOUNDARY_RATIO + 1e-6


def test_every_visited_timestep_lies_among_the_drawn_ones() -> None:
    schedule = UniPcSchedule(scheduler_config(), official_sigmas(40), flow_shift=12.0)
    drawn = 1000 * torch.cat([_drawn(HIGH_NOISE_EXPERT), _drawn(LOW_NOISE_EXPERT)])
    assert schedule.timesteps[0] == 999
    assert schedule.timesteps[-1] == 235
    for timestep in schedule.timesteps:
        assert (drawn - timestep).abs().min() < 2.0


def test_sigmas_are_spread_as_the_steps_of_serving_are() -> None:
    _, _, common = PARTS["common_expert"]
    lowest, highest, _ = PARTS["common_expert"]
    sigmas = flow_matching.draw_sigmas(4000, lowest=lowest, highest=highest, random=torch.Generator().manual_seed(0))
    share = (sigmas >= BOUNDARY_RATIO).float().mean().item()
    assert share == pytest.approx(26 / 40, abs=0.02)
    assert common > 0


def test_unshifted_is_the_inverse_of_shifted() -> None:
    assert flow_matching.shift(torch.tensor(flow_matching.unshift(0.875))).item() == pytest.approx(0.875)


def test_the_velocity_leads_from_clean_to_noise() -> None:
    clean, noise = torch.randn(3, 2, 1, 4, 4), torch.randn(3, 2, 1, 4, 4)
    sigmas = torch.tensor([0.0, 0.3, 1.0])
    noisy = flow_matching.add_noise(clean, noise, sigmas)
    assert torch.equal(noisy[0], clean[0])
    assert torch.allclose(noisy[2], noise[2])
    back = noisy - sigmas.view(-1, 1, 1, 1, 1) * flow_matching.target_velocity(clean, noise)
    assert torch.allclose(back, clean, atol=1e-6)


def test_embeddings_equal_those_of_serving_with_padding_to_the_full_length() -> None:
    torch.manual_seed(0)
    text_encoder, tokenizer = new_text_encoder().eval(), new_tokenizer()
    captions = ["a red circle moves left", "", "one blue star spins in place, the background is dark blue"]
    tokens = tokenizer(captions, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        expected = TextEncoderGraph(text_encoder)(tokens.input_ids, tokens.attention_mask)
        found = text_embeddings(text_encoder, tokenizer, captions=captions)
    assert found.shape == (3, 64, WIDTH)
    assert torch.allclose(found, expected, atol=1e-4)
    assert found[1, 1:].abs().max() == 0.0, "the empty caption is one end token, then padding"
