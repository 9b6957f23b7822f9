"""Command line of `python -m export torch-program`."""

import argparse
from pathlib import Path
from typing import Any

from export.graphs.precision import PART_OF, SUPPORTED, Precisions, needs_ranges

_PLACES = {"auto": None, "inside": False, "external": True}
_OPTIONS = {"--precision": "experts", "--text-encoder-precision": "text_encoder", "--vae-precision": "vae"}


def add_torch_program(commands: Any, *, checkpoint: Path, repository: Path) -> None:
    """Add the command to the parsers of `python -m export`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "torch-program", help="trace graphs to programs for the engine `torch`"
    )
    parser.add_argument("--checkpoint", type=Path, default=checkpoint, help="diffusers folder (default: %(default)s)")
    parser.add_argument(
        "--repository", type=Path, default=repository, help="model repository to install into (default: %(default)s)"
    )
    parser.add_argument(
        "--graph", action="append", choices=tuple(PART_OF), help="graph to trace; again for more (default: all five)"
    )
    parser.add_argument(
        "--weights",
        choices=_PLACES,
        default="auto",
        help="where weights go: inside the programs, or external, in the checkpoint's own files (default: those of "
        "experts above 0.9 GB are external)",
    )
    parser.add_argument(
        "--exported",
        type=Path,
        help="folder that `make export` wrote for a checkpoint that it did not install: model files and manifests are "
        "installed from it, so that the server needs no plans",
    )
    for option, part in _OPTIONS.items():
        parser.add_argument(
            option,
            dest=part,
            choices=[name for name in SUPPORTED[part] if not needs_ranges(name)],
            default="fp32",
            help=f"precision of the {part.replace('_', ' ')} (default: %(default)s)",
        )
    parser.set_defaults(command=_torch_program)


def _torch_program(options: argparse.Namespace) -> None:
    from export.checkpoint.folder import Checkpoint
    from export.to_torch_program import write_programs

    checkpoint = Checkpoint.open(options.checkpoint)
    if options.exported is not None:
        from export.to_onnx.install import install_without_graphs

        install_without_graphs(options.exported, options.repository)
    precisions = Precisions(options.experts, options.text_encoder, options.vae)
    write_programs(
        checkpoint,
        options.repository,
        graphs=options.graph or tuple(PART_OF),
        precisions=precisions,
        external_weights=_PLACES[options.weights],
    )
