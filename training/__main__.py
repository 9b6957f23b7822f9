"""Train wan-mini. Run from the repository root:

    python -m training all                                  # everything, a few hours on two CPU cores
    python -m training all --vae-minutes 25 --expert-minutes 45
    python -m training vae | decoder | experts | pack | score         # one stage

Every stage resumes from its own snapshot in `--work`. Its losses and sample strips are beside the snapshot.
"""

import argparse
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from export.atomic import OccupiedFolderError, check_replaceable
from export.checkpoint.mini import is_wan_mini
from training.judge.ablations import ABLATIONS, score_ablation
from training.judge.expert_losses import expert_losses
from training.learn.device import compute_device
from training.learn.loop import OtherSettingsError
from training.learn.vae_stage import show_reconstructions
from training.pack import load_packed_modules, write_checkpoint
from training.stages import Settings, load_trained_modules, train_decoder, train_experts, train_vae
from wan_t2v.shapes import VideoShape

DEFAULTS = Settings(work=Path("build/training"))
SCORED_CLIPS = 40


def main() -> None:
    """Run one stage or all. An expected failure ends with one line and exit code 1."""
    try:
        _run(_arguments())
    except (OccupiedFolderError, OtherSettingsError) as error:
        sys.exit(f"error: {error}")


def _run(arguments: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = Settings(
        work=arguments.work,
        video=VideoShape(arguments.frames, arguments.side, arguments.side),
        seed=arguments.seed,
        clips=arguments.clips,
        vae_steps=arguments.vae_steps,
        vae_minutes=arguments.vae_minutes,
        decoder_steps=arguments.decoder_steps,
        decoder_minutes=arguments.decoder_minutes,
        expert_steps=arguments.expert_steps,
        expert_minutes=arguments.expert_minutes,
        common_share=arguments.common_share,
    )
    if arguments.stage in ("pack", "all"):
        check_replaceable(arguments.out, is_wan_mini)  # before hours of training
    if arguments.stage in ("vae", "all"):
        train_vae(settings)
    if arguments.stage in ("decoder", "all"):
        train_decoder(settings)
    if arguments.stage in ("experts", "all"):
        train_experts(settings)
    if arguments.stage in ("pack", "all"):
        write_checkpoint(load_trained_modules(settings), arguments.out, video=settings.video)
    if arguments.stage == "score":
        _score(settings, arguments.out)


def _score(settings: Settings, checkpoint: Path) -> None:
    """Judge a packed checkpoint: its VAE and experts on held-out clips, and its videos of held-out prompts."""
    modules = load_packed_modules(checkpoint)
    sheets = settings.work / "scores"
    sheets.mkdir(parents=True, exist_ok=True)
    reconstructed = show_reconstructions(
        modules.vae,
        sheets / "reconstructions.png",
        video=settings.video,
        seed=settings.seed,
        device=compute_device(),
        count=SCORED_CLIPS,
    )
    print(json.dumps({"vae": "held-out clips", "clips": SCORED_CLIPS, **reconstructed}), flush=True)
    for band in expert_losses(modules, video=settings.video, seed=settings.seed, clips=SCORED_CLIPS):
        print(json.dumps(asdict(band)), flush=True)
    for ablation in ABLATIONS:
        sheet = sheets / f"{ablation.name.replace(' ', '-')}.png"
        adherence = score_ablation(ablation, modules, video=settings.video, sheet=sheet)
        print(json.dumps({"variant": ablation.name, **adherence.as_line()}), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train wan-mini.")
    parser.add_argument("stage", choices=("all", "vae", "decoder", "experts", "pack", "score"))
    parser.add_argument("--work", type=Path, default=DEFAULTS.work, help="snapshots, logs, strips and latents")
    parser.add_argument(
        "--out", type=Path, default=Path("training/wan-mini"), help="checkpoint folder of `pack` and `score`"
    )
    parser.add_argument("--side", type=int, default=DEFAULTS.video.height, help="height and width in pixels")
    parser.add_argument("--frames", type=int, default=DEFAULTS.video.frames)
    parser.add_argument("--seed", type=int, default=DEFAULTS.seed)
    parser.add_argument("--clips", type=int, default=DEFAULTS.clips, help="training clips of the experts")
    parser.add_argument("--vae-steps", type=int, default=DEFAULTS.vae_steps)
    parser.add_argument("--vae-minutes", type=float, help="end the VAE's training after this time")
    parser.add_argument("--decoder-steps", type=int, default=DEFAULTS.decoder_steps)
    parser.add_argument("--decoder-minutes", type=float, help="end the decoder's own training after this time")
    parser.add_argument("--expert-steps", type=int, default=DEFAULTS.expert_steps)
    parser.add_argument("--expert-minutes", type=float, help="end the experts' training after this time")
    parser.add_argument(
        "--common-share",
        type=float,
        default=DEFAULTS.common_share,
        help="share of the experts' training before the split",
    )
    parser.add_argument("--threads", type=int, help="CPU threads; PyTorch's choice if left out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
