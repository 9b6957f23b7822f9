"""Prompts for the calibration of FP8 and INT8."""

from pathlib import Path

from export.checkpoint.config_file import CheckpointError, read_text

PROMPTS_FILE = "calibration_prompts.txt"  # in a checkpoint
_OWN_PROMPTS = Path(__file__).with_name("prompts.txt")


def calibration_prompts(checkpoint: Path, file: Path | None = None) -> tuple[str, ...]:
    """Read prompts, one per line: of `file`, else of the checkpoint, else of this project. Raises CheckpointError."""
    own = checkpoint / PROMPTS_FILE
    chosen = file or (own if own.is_file() else _OWN_PROMPTS)
    if not chosen.is_file():
        raise CheckpointError(f"{chosen} is missing; it should have one prompt per line.")
    prompts = tuple(line.strip() for line in read_text(chosen).splitlines() if line.strip())
    if not prompts:
        raise CheckpointError(f"{chosen} has no prompt; it should have one per line.")
    return prompts
