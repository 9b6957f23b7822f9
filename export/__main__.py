"""Commands of the engine's way. From the repository's root:

python -m export mini                                   make the small checkpoint
python -m export onnx --checkpoint FOLDER               checkpoint to checked ONNX graphs, and install them
python -m export parity --checkpoint FOLDER             compare exported graphs with the checkpoint again
"""

import argparse
import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path

MINI = Path("checkpoints/wan-mini")
REPOSITORY = Path("model_repository")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; expected failures end in one line and exit code 1."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may fetch: what is missing must be said
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("export").setLevel(logging.INFO)
    _hide_progress_bars()
    from export.checkpoint import CheckpointError
    from export.parity import ParityError

    try:
        options.command(options)
    except (CheckpointError, ParityError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing half-written is left behind", file=sys.stderr)
        return 130
    return 0


def _hide_progress_bars() -> None:
    """The libraries draw bars of their own for files that load in milliseconds."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    mini = commands.add_parser("mini", help="make the small checkpoint, weights seeded random")
    mini.add_argument("--out", type=Path, default=MINI, help="folder to write (default: %(default)s)")
    mini.add_argument("--seed", type=int, default=0, help="seed of the weights (default: %(default)s)")
    mini.set_defaults(command=_mini)
    onnx = commands.add_parser("onnx", help="checkpoint to checked ONNX graphs, installed in the model repository")
    onnx.add_argument("--repository", type=Path, default=REPOSITORY, help="where to install (default: %(default)s)")
    onnx.add_argument("--jobs", type=int, default=2, help="graphs traced at the same time (default: %(default)s)")
    onnx.set_defaults(command=_onnx)
    parity = commands.add_parser("parity", help="compare exported graphs with the checkpoint's modules")
    parity.set_defaults(command=_parity)
    for command in (onnx, parity):
        command.add_argument("--checkpoint", type=Path, default=MINI, help="diffusers folder (default: %(default)s)")
        command.add_argument("--folder", type=Path, help="exported graphs (default: under build/)")
    return parser


def _mini(options: argparse.Namespace) -> None:
    from export.mini_checkpoint import write_mini_checkpoint

    write_mini_checkpoint(options.out, seed=options.seed)


def _onnx(options: argparse.Namespace) -> None:
    from export.exported import exported_checkpoint
    from export.install import installed

    folder = exported_checkpoint(options.checkpoint, _folder(options), jobs=options.jobs)
    installed(folder, options.repository)
    print(f"installed {options.checkpoint.name} in {options.repository}", file=sys.stderr)


def _parity(options: argparse.Namespace) -> None:
    from export.graph_table import GRAPHS
    from export.parity import TOLERANCES, parity_of

    for graph in GRAPHS:
        comparisons = parity_of(graph, options.checkpoint, _folder(options))
        row = {"graph": graph, "tolerance": asdict(TOLERANCES[graph]), "shapes": [asdict(c) for c in comparisons]}
        print(json.dumps(row))


def _folder(options: argparse.Namespace) -> Path:
    checkpoint: Path = options.checkpoint.resolve()
    parent = "" if checkpoint.parent.name == "checkpoints" else f"{checkpoint.parent.name}-"
    return Path(options.folder or Path("build") / f"{parent}{checkpoint.name}")


if __name__ == "__main__":
    sys.exit(main())
