"""The VAE in one pass does what its own passes frame by frame do."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from training.learn.latent_cache import channel_statistics
from training.learn.modules import new_vae
from training.learn.vae_stage import VaeStage, frames_from_vae, psnr_db, vae_input
from training.learn.whole_clip import decode_whole, encode_whole
from wan_t2v.latents import diffusion_from_vae
from wan_t2v.shapes import VideoShape


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True]
    ).requires_grad_(False)


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_one_pass_equals_the_pass_frame_by_frame(vae: AutoencoderKLWan, frames: int) -> None:
    clip = torch.rand(2, 3, frames, 16, 24) * 2.0 - 1.0
    posterior = vae.encode(clip).latent_dist
    mean, log_variance = encode_whole(vae, clip)
    assert torch.allclose(mean, posterior.mean, atol=1e-5)
    assert torch.allclose(log_variance, posterior.logvar, atol=1e-5)
    assert torch.allclose(decode_whole(vae, mean).clamp(-1.0, 1.0), vae.decode(mean).sample, atol=1e-5)


def test_the_untrained_vae_lets_the_clip_through() -> None:
    torch.manual_seed(0)
    dark, light = torch.full((1, 3, 1, 32, 32), -0.9), torch.full((1, 3, 1, 32, 32), 0.9)
    vae = new_vae().requires_grad_(False)
    far = encode_whole(vae, dark)[0] - encode_whole(vae, light)[0]
    assert far.abs().mean() > 0.1


def test_a_step_of_training_has_finite_losses_and_reaches_every_weight() -> None:
    torch.manual_seed(0)
    stage = VaeStage(new_vae(), video=VideoShape(5, 32, 32), seed=0, device=torch.device("cpu"))
    losses = stage.losses(0, 0.0)
    losses["loss"].backward()
    assert set(losses) == {"loss", "l1", "l2", "kl"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(parameter.grad is not None for parameter in stage.module.parameters())


def test_frames_survive_the_way_to_the_vae_and_back() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 8, 3)).astype(np.uint8)
    assert np.array_equal(frames_from_vae(vae_input(frames)), frames)


def test_psnr_of_a_known_error() -> None:
    black = np.zeros((1, 4, 4, 3), np.uint8)
    assert psnr_db(black, black + 255) == pytest.approx(0.0)
    assert psnr_db(black, black + 8) == pytest.approx(30.07, abs=0.01)


def test_latents_are_normalised_by_their_own_statistics() -> None:
    latents = torch.randn(6, 16, 2, 4, 4) * 3.0 + 1.0
    normalised = diffusion_from_vae(latents, *channel_statistics(latents))
    assert normalised.mean().abs() < 1e-5
    assert normalised.std() == pytest.approx(1.0, abs=5e-3)
