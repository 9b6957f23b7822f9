"""Command line of `python -m export calibrate`."""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from export.commands.onnx import ranges_file


def add_calibrate(commands: Any, *, checkpoint: Path, folder_of: Callable[[argparse.Namespace], Path]) -> None:
    """Add the command to the parsers of `python -m export`."""
    parser: argparse.ArgumentParser = commands.add_parser("calibrate", help="find the ranges that FP8 and INT8 need")
    parser.add_argument("--checkpoint", type=Path, default=checkpoint, help="diffusers folder (default: %(default)s)")
    parser.add_argument("--prompts", type=Path, help="file with one prompt per line (default: the checkpoint's own)")
    parser.add_argument("--limit", type=int, default=16, help="most prompts to use (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps per video (default: %(default)s)")
    parser.add_argument("--fp8-ranges", type=Path, help="file to write (default: under build/)")
    parser.set_defaults(command=_calibrate, folder_of=folder_of)


def _calibrate(options: argparse.Namespace) -> None:
    from export.checkpoint.folder import Checkpoint, CheckpointError
    from export.progress_bars import hide_progress_bars_of_diffusers
    from export.quantisation.calibrate import CalibrationSettings, calibrate
    from export.quantisation.prompts import calibration_prompts

    if options.limit < 1 or options.steps < 2:
        raise CheckpointError(f"--limit {options.limit} --steps {options.steps}: at least 1 prompt and 2 steps.")
    prompts = calibration_prompts(options.checkpoint, options.prompts)[: options.limit]
    target = options.fp8_ranges or ranges_file(options.checkpoint, options.folder_of)
    _check_writable(target)
    hide_progress_bars_of_diffusers()
    calibrated = calibrate(Checkpoint.open(options.checkpoint), CalibrationSettings(prompts, options.steps))
    calibrated.write(target)
    counts = ", ".join(f"{len(ranges)} of {name}" for name, ranges in calibrated.ranges.items())
    print(f"wrote {target}: ranges {counts}, from {len(prompts)} videos", file=sys.stderr)


def _check_writable(target: Path) -> None:
    """Make the folder of `target`, and write to it, before hours of videos. Raises CheckpointError or OSError."""
    from export.checkpoint.config_file import CheckpointError

    if target.is_dir():
        raise CheckpointError(f"--fp8-ranges {target} is a folder, accepted: a file to write.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=f".{target.name}.", suffix=".partial", dir=target.parent):
        pass
