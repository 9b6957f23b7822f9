import torch

from wan_t2v.latents import diffusion_from_vae, starting_noise, vae_from_diffusion
from wan_t2v.shapes import LatentShape

MEAN, STD = (0.5, -1.0), (2.0, 0.25)


def test_the_two_latent_spaces_are_inverse_to_each_other() -> None:
    latents = torch.randn(2, 2, 3, 4, 5)
    assert torch.allclose(diffusion_from_vae(vae_from_diffusion(latents, MEAN, STD), MEAN, STD), latents, atol=1e-6)


def test_statistics_are_applied_by_channel() -> None:
    scaled = vae_from_diffusion(torch.ones(1, 2, 1, 1, 1), MEAN, STD)
    assert scaled.flatten().tolist() == [2.5, -0.75]


def test_a_seed_gives_the_noise_that_diffusers_draws() -> None:
    from diffusers.utils.torch_utils import randn_tensor

    shape = LatentShape(16, 3, 8, 12)
    expected = randn_tensor(shape.tensor_shape, generator=torch.Generator().manual_seed(2**40), dtype=torch.float32)
    assert torch.equal(starting_noise(shape, 2**40), expected)
