"""Cached latents belong to the encoder that made them."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.learn import latent_cache
from training.learn.latent_cache import encode_once
from wan_t2v.shapes import VideoShape


@pytest.fixture
def vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True]
    ).requires_grad_(False)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[range]:
    """The clips that were encoded, by call."""
    calls: list[range] = []

    def encode(vae: AutoencoderKLWan, indices: range, **_: object) -> Tensor:
        calls.append(indices)
        return torch.full((len(indices), 1), float(len(calls)))

    monkeypatch.setattr(latent_cache, "PART_CLIPS", 4)
    monkeypatch.setattr(latent_cache, "_encode", encode)
    return calls


def test_a_vae_that_was_trained_on_encodes_anew(vae: AutoencoderKLWan, encoded: list[range], tmp_path: Path) -> None:
    def latents() -> Tensor:
        return encode_once(vae, tmp_path, clips=4, video=VideoShape(5, 32, 32), seed=0)

    assert latents().unique().tolist() == latents().unique().tolist() == [1.0]
    vae.decoder.conv_out.weight += 1.0
    assert latents().unique().tolist() == [1.0], "the decoder does not change the latents"
    for weight in (vae.encoder.conv_out.weight, vae.quant_conv.weight):
        weight += 1.0
        before = len(encoded)
        assert latents().unique().tolist() == [before + 1.0]
