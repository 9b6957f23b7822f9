"""Command line of `python -m export merge-lora`."""

import argparse
import sys
from pathlib import Path
from typing import Any


def add_merge_lora(commands: Any, *, checkpoint: Path) -> None:
    """Add the command to the parsers of `python -m export`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "merge-lora", help="write a new checkpoint with LoRAs merged into the experts"
    )
    parser.add_argument("--checkpoint", type=Path, default=checkpoint, help="diffusers folder (default: %(default)s)")
    parser.add_argument("--high", metavar="FILE", help="LoRA of the high-noise expert (transformer), or `none`")
    parser.add_argument("--low", metavar="FILE", help="LoRA of the low-noise expert (transformer_2), or `none`")
    parser.add_argument("--scale", type=float, default=1.0, help="strength of both (default: %(default)s)")
    parser.add_argument("--into", type=Path, help="folder to write (default: the checkpoint's name and -lora)")
    parser.add_argument("--same-file", action="store_true", help="allow the same LoRA file for both experts")
    parser.add_argument("--some-blocks", action="store_true", help="allow a LoRA that changes only some of the blocks")
    parser.set_defaults(command=_merge_lora)


def _merge_lora(options: argparse.Namespace) -> None:
    from export.atomic import folder_beside
    from export.checkpoint.folder import Checkpoint
    from export.lora.experts import LoraChoice
    from export.lora.folder import merge_loras

    choice = LoraChoice(
        options.high,
        options.low,
        scale=options.scale,
        same_file=options.same_file,
        some_blocks=options.some_blocks,
    )
    checkpoint = Checkpoint.open(options.checkpoint)
    into = options.into or folder_beside(checkpoint.folder, "-lora")
    print(f"merged into {merge_loras(checkpoint, choice, into)}", file=sys.stderr)
