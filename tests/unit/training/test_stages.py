"""The stages together, in sizes that a test can afford: what one writes the next finds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from export.atomic import holds_only, write_folder_atomically
from training.judge.ablations import ABLATIONS, Ablation, score_ablation
from training.learn import expert_stage, latent_cache
from training.learn.loop import OtherSettingsError
from training.learn.modules import new_expert, new_text_encoder
from training.learn.sampling import Modules, SamplingSettings, generate_clips, latent_shape
from training.stages import (
    Settings,
    load_trained_modules,
    load_vae,
    new_tokenizer,
    train_decoder,
    train_experts,
    train_vae,
)
from training.world.prompts import fixed_prompts
from wan_t2v.shapes import VideoShape

VIDEO = VideoShape(5, 32, 32)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Four clips, four steps, and a VAE that has learned nothing."""
    monkeypatch.setattr(latent_cache, "PART_CLIPS", 4)
    monkeypatch.setattr(expert_stage, "SHOWN_PROMPTS", 1)
    monkeypatch.setattr(expert_stage, "PARTS", {n: (low, high, 4) for n, (low, high, _) in expert_stage.PARTS.items()})
    vae = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True])
    with write_folder_atomically(tmp_path / "vae" / "trained", made_here=holds_only()) as partial:
        vae.save_pretrained(partial)
    return Settings(tmp_path, video=VIDEO, clips=4, expert_steps=4, common_share=0.5)


def test_experts_train_from_the_trained_vae_and_generate_from_the_snapshot(settings: Settings) -> None:
    trained = train_experts(settings)
    found = load_trained_modules(settings)
    for name in ("text_encoder", "high_noise_expert", "low_noise_expert"):
        pairs = zip(getattr(trained, name).parameters(), getattr(found, name).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    (frames,) = generate_clips(
        found, ["a red star moves up"], seeds=[0], shape=latent_shape(VIDEO), settings=SamplingSettings(steps=2)
    )
    assert frames.shape == (*VIDEO, 3)


def test_the_experts_part_ways_after_the_common_one(settings: Settings) -> None:
    trained = train_experts(settings)
    high, low = trained.high_noise_expert.proj_out.weight, trained.low_noise_expert.proj_out.weight
    assert not torch.equal(high, low)


def test_without_a_trained_vae_the_command_that_makes_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m training vae"):
        train_experts(Settings(tmp_path))


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.name)
def test_every_ablation_generates_and_is_scored(ablation: Ablation, settings: Settings) -> None:
    few = replace(ablation, settings=replace(ablation.settings, steps=2))
    adherence = score_ablation(few, _untrained_modules(settings), video=VIDEO, prompts=fixed_prompts(2))
    assert adherence.scores.prompts == 2


def _untrained_modules(settings: Settings) -> Modules:
    """Experts that have learned nothing."""
    return Modules(new_tokenizer(), new_text_encoder(), new_expert(), new_expert(), load_vae(settings))


def test_the_decoder_trains_on_alone_and_latents_stay_as_they_are(settings: Settings) -> None:
    before = load_vae(settings)
    train_decoder(replace(settings, decoder_steps=2))
    after = load_vae(settings)
    assert torch.equal(before.encoder.conv_out.weight, after.encoder.conv_out.weight)
    assert torch.equal(before.quant_conv.weight, after.quant_conv.weight)
    assert not torch.equal(before.decoder.conv_out.weight, after.decoder.conv_out.weight)
    assert after.config.latents_mean == before.config.latents_mean


def test_each_stage_refuses_a_snapshot_of_other_settings(settings: Settings) -> None:
    train_experts(settings)
    train_decoder(replace(settings, decoder_steps=2))
    with pytest.raises(OtherSettingsError, match="common/snapshot.pt .* seed was 0 and is 1"):
        train_experts(replace(settings, seed=1))
    with pytest.raises(OtherSettingsError, match="decoder/snapshot.pt .* clips was 4 and is 3"):
        train_decoder(replace(settings, clips=3))
    with pytest.raises(OtherSettingsError, match="experts/snapshot.pt .* size was 32x32x5 and is 64x64x17"):
        load_trained_modules(replace(settings, video=VideoShape(17, 64, 64)))


def test_a_finished_vae_of_other_settings_is_refused(settings: Settings) -> None:
    assert train_vae(settings), "without a snapshot nothing is known, and the VAE is taken"
    torch.save({"settings": {"size": str(VIDEO), "seed": 0}}, settings.work / "vae/snapshot.pt")
    assert train_vae(settings)
    with pytest.raises(OtherSettingsError, match="vae/snapshot.pt .* seed was 0 and is 1"):
        train_vae(replace(settings, seed=1))
