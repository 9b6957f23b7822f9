"""Command line of `python -m export torch-program`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from export.commands.onnx import chosen_precisions
from export.graphs.precision import PART_OF, SUPPORTED, needs_ranges

_PLACES = {"auto": None, "inside": False, "external": True}
_OPTIONS = {"--precision": "experts", "--text-encoder-precision": "text_encoder", "--vae-precision": "vae"}


def add_torch_program(
    commands: Any, *, checkpoint: Path, repository: Path, folder_of: Callable[[argparse.Namespace], Path]
) -> None:
    """Add the command to the parsers of `python -m export`. `folder_of` returns the folder for exported graphs."""
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
        nargs="?",
        type=Path,
        const=True,  # the one that belongs to the checkpoint
        help="install model files and manifests too, for a server without plans: from this folder of `make export` "
        "(default: the one under build/)",
    )
    parser.add_argument("--default-size", help="with --exported: clip size of requests that name none, as 480x832x81")
    for option, part in _OPTIONS.items():
        parser.add_argument(
            option,
            dest=part,
            choices=[name for name in SUPPORTED[part] if not needs_ranges(name)],
            help=f"precision of the {part.replace('_', ' ')} (default: small checkpoints fp32, A14B as it is served)",
        )
    parser.set_defaults(command=lambda options: _torch_program(options, folder_of))


def _torch_program(options: argparse.Namespace, folder_of: Callable[[argparse.Namespace], Path]) -> None:
    from export.checkpoint.folder import Checkpoint
    from export.placement.gpu_memory import SettingsError, check_size, parse_size
    from export.to_onnx.install import check_same_checkpoint, install_without_graphs, set_default_size
    from export.to_torch_program import write_programs

    checkpoint = Checkpoint.open(options.checkpoint)
    default_size = parse_size(options.default_size) if options.default_size else None
    if default_size is not None:
        if options.exported is None:
            raise SettingsError("--default-size is installed with the model files: name --exported too")
        check_size(default_size, checkpoint.facts.grid)
    folder = options.exported
    if folder is True:
        folder = folder_of(argparse.Namespace(checkpoint=options.checkpoint, folder=None))
    if folder is not None:
        check_same_checkpoint(folder, checkpoint)
    precisions = chosen_precisions(options, checkpoint.default_precisions)
    write_programs(
        checkpoint,
        options.repository,
        graphs=options.graph or tuple(PART_OF),
        precisions=precisions,
        external_weights=_PLACES[options.weights],
    )
    if folder is not None:
        install_without_graphs(folder, options.repository)
        if default_size is not None:
            set_default_size(options.repository, default_size)
