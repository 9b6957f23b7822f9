"""Stages of the training: VAE, decoder, latents, one common expert, two experts."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from export.atomic import holds_only, write_folder_atomically
from export.checkpoint.mini import TEXT_LENGTH, VOCABULARY
from export.checkpoint.mini_tokenizer import train_tokenizer
from training.learn.decoder_stage import DecoderStage
from training.learn.device import compute_device
from training.learn.expert_stage import COMMON_EXPERT, TEXT_ENCODER, ExpertStage, TrainingData, modules_of
from training.learn.latent_cache import channel_statistics, encode_once, encoder_sha256
from training.learn.loop import Plan, Setting, Training, check_settings, with_average
from training.learn.modules import new_expert, new_text_encoder, new_vae
from training.learn.sampling import Modules
from training.learn.vae_stage import VaeStage
from wan_t2v.experts import HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT
from wan_t2v.shapes import VideoShape

VAE_RATE, DECODER_RATE, EXPERT_RATE = 1.5e-3, 7e-4, 2e-3
_holds_a_vae = holds_only("config.json", "*.safetensors")
HALF_RATE = 0.5  # share of the learning rate when the common expert is copied


@dataclass(frozen=True)
class Settings:
    """Settings of the training.

    Attributes:
        work: folder of snapshots, logs, sample strips and latents, from which a later run resumes.
        clips: number of training clips of the experts. Their captions are drawn anew at each step.
        vae_minutes, decoder_minutes, expert_minutes: time limits of the stages; None limits the steps only.
        common_share: share of the experts' steps and minutes in which the common expert is trained.
    """

    work: Path
    video: VideoShape = VideoShape(17, 64, 64)
    seed: int = 0
    clips: int = 4096
    vae_steps: int = 6000
    vae_minutes: float | None = None
    decoder_steps: int = 4000
    decoder_minutes: float | None = None
    expert_steps: int = 20_000
    expert_minutes: float | None = None
    common_share: float = 0.6


def train_vae(settings: Settings) -> AutoencoderKLWan:
    """Train the VAE, encode the training clips, and write their latents' statistics to its config, as Wan does.

    Raises OtherSettingsError for a VAE or a snapshot of other settings, as the other stages do.
    """
    check_settings(settings.work / "vae", _of_clips(settings))
    if not _vae_folder(settings).exists():
        vae = cast(AutoencoderKLWan, _vae_training(settings).run()).requires_grad_(False)
        mean, std = channel_statistics(_latents(vae, settings))
        vae.register_to_config(latents_mean=mean, latents_std=std)
        with write_folder_atomically(_vae_folder(settings), made_here=_holds_a_vae) as partial:
            vae.save_pretrained(partial)
    return load_vae(settings)


def train_decoder(settings: Settings) -> AutoencoderKLWan:
    """Train the decoder alone for longer, and save the VAE with it. Raises FileNotFoundError without a trained VAE."""
    vae = load_vae(settings)
    device = compute_device()
    stage = DecoderStage(vae, _latents(vae, settings), video=settings.video, seed=settings.seed, device=device)
    plan = Plan(settings.decoder_steps, settings.decoder_minutes, learning_rate=DECODER_RATE, average_decay=0.99)
    made_with = _of_latents(settings, vae)
    Training(stage, settings.work / "decoder", plan=plan, device=device, settings=made_with).run()
    with write_folder_atomically(_vae_folder(settings), made_here=_holds_a_vae) as partial:
        vae.save_pretrained(partial)
    return vae.eval().requires_grad_(False)


def train_experts(settings: Settings) -> Modules:
    """Train the common expert on all noise levels, copy it, and train both experts.

    Raises FileNotFoundError without a trained VAE.
    """
    vae = load_vae(settings)
    data = TrainingData.normalise(_latents(vae, settings), vae, seed=settings.seed)
    common = cast(nn.ModuleDict, _expert_training(_common(settings), data, vae=vae, settings=settings).run())
    both = nn.ModuleDict({TEXT_ENCODER: common[TEXT_ENCODER], HIGH_NOISE_EXPERT: common[COMMON_EXPERT]})
    both[LOW_NOISE_EXPERT] = copy.deepcopy(common[COMMON_EXPERT])
    trained = cast(nn.ModuleDict, _expert_training(both, data, vae=vae, settings=settings).run())
    return modules_of(trained, tokenizer=new_tokenizer(), vae=vae)


def load_trained_modules(settings: Settings) -> Modules:
    """Load the modules of the newest snapshot with averaged weights. The experts' training may still be running.

    Raises FileNotFoundError without a snapshot or a trained VAE, and OtherSettingsError for experts of another clip
    size, which would become the default size of the checkpoint.
    """
    check_settings(settings.work / "experts", {"size": str(settings.video)})
    experts = {name: new_expert() for name in (HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT)}
    module = nn.ModuleDict({TEXT_ENCODER: new_text_encoder(), **experts})
    with_average(module, settings.work / "experts")
    return modules_of(module.eval(), tokenizer=new_tokenizer(), vae=load_vae(settings))


def load_vae(settings: Settings) -> AutoencoderKLWan:
    """Load the trained VAE. Raises FileNotFoundError with the command that trains it."""
    folder = _vae_folder(settings)
    if not folder.exists():
        raise FileNotFoundError(f"{folder} is missing. Run `python -m training vae` first.")
    vae: AutoencoderKLWan = AutoencoderKLWan.from_pretrained(folder, local_files_only=True)
    return vae.eval().requires_grad_(False)


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Train wan-mini's tokenizer, which is deterministic."""
    return train_tokenizer(vocabulary=VOCABULARY, text_length=TEXT_LENGTH)


def _of_clips(settings: Settings) -> dict[str, Setting]:
    """Return the settings that decide which clips are drawn."""
    return {"size": str(settings.video), "seed": settings.seed}


def _of_latents(settings: Settings, vae: AutoencoderKLWan) -> dict[str, Setting]:
    """Return the settings that decide the latents of a training."""
    return {**_of_clips(settings), "clips": settings.clips, "encoder": encoder_sha256(vae)}


def _vae_folder(settings: Settings) -> Path:
    return settings.work / "vae" / "trained"


def _vae_training(settings: Settings) -> Training:
    torch.manual_seed(settings.seed)
    device = compute_device()
    stage = VaeStage(new_vae(), video=settings.video, seed=settings.seed, device=device)
    plan = Plan(settings.vae_steps, settings.vae_minutes, learning_rate=VAE_RATE, average_decay=0.99)
    return Training(stage, settings.work / "vae", plan=plan, device=device, settings=_of_clips(settings))


def _latents(vae: AutoencoderKLWan, settings: Settings) -> Tensor:
    """Return the latents of the training clips, from the cache or encoded."""
    folder = settings.work / "vae" / "latents"
    vae = vae.to(compute_device()).eval()
    return encode_once(vae, folder, clips=settings.clips, video=settings.video, seed=settings.seed)


def _common(settings: Settings) -> nn.ModuleDict:
    torch.manual_seed(settings.seed)
    return nn.ModuleDict({TEXT_ENCODER: new_text_encoder(), COMMON_EXPERT: new_expert()})


def _expert_training(
    module: nn.ModuleDict, data: TrainingData, *, vae: AutoencoderKLWan, settings: Settings
) -> Training:
    """Create the training of the common expert or of both. The learning rate falls continuously over both."""
    common = COMMON_EXPERT in module
    share = settings.common_share if common else 1.0 - settings.common_share
    plan = Plan(
        steps=max(1, round(share * settings.expert_steps)),
        minutes=settings.expert_minutes and share * settings.expert_minutes,
        learning_rate=EXPERT_RATE if common else HALF_RATE * EXPERT_RATE,
        final_rate=HALF_RATE if common else 0.02,
    )
    device = compute_device()
    stage = ExpertStage(module, data, tokenizer=new_tokenizer(), vae=vae, device=device)
    made_with = {**_of_latents(settings, vae), "common share": settings.common_share}
    folder = settings.work / ("common" if common else "experts")
    return Training(stage, folder, plan=plan, device=device, settings=made_with)
