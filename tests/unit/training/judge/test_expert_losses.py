"""The losses by band tell the experts apart, and only them."""

from dataclasses import replace

import pytest
import torch

from training.judge.expert_losses import expert_losses
from training.learn.modules import new_expert, new_text_encoder, new_vae
from training.learn.sampling import Modules
from training.stages import new_tokenizer
from wan_t2v.shapes import VideoShape

VIDEO = VideoShape(5, 32, 32)


@pytest.fixture(scope="module")
def modules() -> Modules:
    torch.manual_seed(0)
    experts = new_expert().eval(), new_expert().eval()
    with torch.no_grad():  # a large bias makes one of them worse everywhere
        experts[1].proj_out.bias.fill_(3.0)
    vae = new_vae().eval()
    vae.register_to_config(latents_mean=[0.0] * 16, latents_std=[1.0] * 16)
    return Modules(new_tokenizer(), new_text_encoder().eval(), *experts, vae)


def test_the_better_expert_has_the_smaller_loss_on_both_sides(modules: Modules) -> None:
    high, low = expert_losses(modules, video=VIDEO, seed=0, clips=2)
    assert (high.band, low.band) == ("high_noise_expert", "low_noise_expert")
    assert high.high_noise_expert < high.low_noise_expert and high.own_better_on == 2
    assert low.high_noise_expert < low.low_noise_expert and low.own_better_on == 0


def test_exchanged_experts_exchange_their_losses(modules: Modules) -> None:
    exchanged = replace(modules, high_noise_expert=modules.low_noise_expert, low_noise_expert=modules.high_noise_expert)
    for before, after in zip(
        expert_losses(modules, video=VIDEO, seed=0, clips=2),
        expert_losses(exchanged, video=VIDEO, seed=0, clips=2),
        strict=True,
    ):
        assert before.high_noise_expert == pytest.approx(after.low_noise_expert)
        assert before.low_noise_expert == pytest.approx(after.high_noise_expert)
