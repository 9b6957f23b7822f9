"""Train the LoRAs that distill wan-mini to four steps. Run from the repository root:

    make distill-mini        or        python -m training.distill --trajectories 2048 --minutes 50

The teacher's trajectories and the training's snapshot are kept in `--work`, so an interrupted run resumes.
"""

import argparse
import hashlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from export.checkpoint.folder import Checkpoint
from export.errors import ExpectedError
from training.distill.lora import write_lora
from training.distill.stage import KEPT_BACK, DistillStage
from training.distill.trajectories import Teacher, trajectories_of
from training.distill.waypoints import times_through_waypoints
from training.learn.device import compute_device
from training.learn.loop import OtherSettingsError, Plan, Setting, Training, check_settings
from training.learn.sampling import latent_shape
from training.pack import load_packed_modules
from wan_t2v.experts import HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT
from wan_t2v.shapes import VideoShape

logger = logging.getLogger(__name__)

FILES = {HIGH_NOISE_EXPERT: "high_noise.safetensors", LOW_NOISE_EXPERT: "low_noise.safetensors"}
RATE = 6e-3


class UnusableSettingsError(ExpectedError):
    """Settings with which no distillation can run; the message names the option."""


@dataclass(frozen=True)
class Settings:
    """Settings of a distillation: checkpoint, working folder, amount of data, duration."""

    checkpoint: Path
    work: Path
    trajectories: int = 2048
    teacher_steps: int = 20
    steps: int = 4000
    minutes: float | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise UnusableSettingsError, before hours of the teacher."""
        if self.trajectories <= KEPT_BACK:
            accepted = f"more than {KEPT_BACK}, which are kept back for validation"
            raise UnusableSettingsError(f"--trajectories {self.trajectories}: accepted: {accepted}")
        try:
            times_through_waypoints(self.teacher_steps)
        except ValueError as error:
            raise UnusableSettingsError(f"--teacher-steps {self.teacher_steps}: {error}") from None


def distill(settings: Settings) -> DistillStage:
    """Generate the teacher's trajectories, train the LoRAs, and return the stage with averaged weights.

    Raises OtherSettingsError for a snapshot of other settings, and ExpectedError for settings or a checkpoint that
    cannot be used.
    """
    settings.check()
    checkpoint, device = Checkpoint.open(settings.checkpoint), compute_device()
    modules = load_packed_modules(settings.checkpoint)
    work = settings.work / _identity(checkpoint)
    size = _default_size(checkpoint)
    made_with: dict[str, Setting] = {
        "size": str(size),
        "seed": settings.seed,
        "teacher steps": settings.teacher_steps,
        "trajectories": settings.trajectories,
    }
    check_settings(work / "lora", made_with)  # before hours of the teacher
    teacher = Teacher(modules, latent_shape(size), steps=settings.teacher_steps, seed=settings.seed)
    trajectories = trajectories_of(teacher, work / "trajectories", count=settings.trajectories)
    stage = DistillStage(modules, trajectories, seed=settings.seed, device=device)
    plan = Plan(settings.steps, settings.minutes, learning_rate=RATE, warmup_steps=50, average_decay=0.99)
    Training(stage, work / "lora", plan=plan, device=device, settings=made_with).run()
    return stage


def _identity(checkpoint: Checkpoint) -> str:
    """Return a folder name from the weights on which the teacher's trajectories depend."""
    hashes = [checkpoint.hash_of(name).sha256 for name in ("text_encoder", "transformer", "transformer_2")]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:12]


def _default_size(checkpoint: Checkpoint) -> VideoShape:
    return VideoShape(*(int(checkpoint.defaults[name]["value"]) for name in ("num_frames", "height", "width")))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write both LoRA files. Returns an exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = Settings(
        options.checkpoint,
        options.work,
        trajectories=options.trajectories,
        teacher_steps=options.teacher_steps,
        steps=options.steps,
        minutes=options.minutes,
        seed=options.seed,
    )
    try:
        stage = distill(settings)
    except KeyboardInterrupt:
        return 130
    except (OtherSettingsError, ExpectedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for expert, name in FILES.items():
        path = write_lora(stage.module[expert], options.out / name, about={"base": f"wan-mini, {expert}"})
        logger.info("wrote %s: %s bytes", path, f"{path.stat().st_size:,}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.distill", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("training/wan-mini"), help="the teacher")
    parser.add_argument("--work", type=Path, default=Path("build/distill"), help="trajectories, snapshot, losses")
    parser.add_argument("--out", type=Path, default=Path("training/wan-mini-four-steps"), help="folder of both files")
    parser.add_argument("--trajectories", type=int, default=2048, help="number of the teacher's trajectories")
    parser.add_argument("--teacher-steps", type=int, default=20)
    parser.add_argument("--steps", type=int, default=4000, help="training steps")
    parser.add_argument("--minutes", type=float, help="end the training after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads; PyTorch's choice if left out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
