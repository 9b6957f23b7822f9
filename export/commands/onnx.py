"""Command lines of `python -m export onnx` and `dry-run`."""

import argparse
import errno
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.graphs.precision import SUPPORTED, Precisions, io_precision

DUMMY = Path("build/a14b-dummy")
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PLACES = {"auto": None, "inside": False, "external": True}


def add_onnx(
    commands: Any, *, checkpoint: Path, repository: Path, folder_of: Callable[[argparse.Namespace], Path]
) -> None:
    """Add both commands to the parsers of `python -m export`. `folder_of` returns the folder for exported graphs."""
    onnx: argparse.ArgumentParser = commands.add_parser(
        "onnx", help="export a checkpoint to checked ONNX graphs, and install them"
    )
    onnx.add_argument("--checkpoint", type=Path, default=checkpoint, help="diffusers folder (default: %(default)s)")
    onnx.add_argument("--folder", type=Path, help="folder for the exported graphs (default: under build/)")
    onnx.add_argument("--repository", type=Path, default=repository, help="where to install (default: %(default)s)")
    onnx.add_argument("--jobs", type=job_count, default=2, help="graphs traced at the same time (default: %(default)s)")
    onnx.add_argument(
        "--weights",
        choices=_PLACES,
        default="auto",
        help="where weights go: inside the graphs, or external, in the checkpoint's own files (default: by their size)",
    )
    onnx.add_argument("--fp8-ranges", type=Path, help="file that `calibrate` wrote (default: the one under build/)")
    onnx.add_argument(
        "--bf16-shards", action="store_true", help="first copy the experts' FP32 shards into BF16 ones, 28.6 GB each"
    )
    onnx.add_argument(
        "--must-install", action="store_true", help="fail if the embedded server could not serve the graphs"
    )
    onnx.set_defaults(command=lambda options: _onnx(options, folder_of))
    dry: argparse.ArgumentParser = commands.add_parser("dry-run", help="export A14B's true shapes without its weights")
    dry.add_argument("--out", type=Path, default=DUMMY, help="dummy checkpoint to write (default: %(default)s)")
    dry.add_argument("--stored", choices=("F32", "BF16"), help="type of the experts' shards (default: as published)")
    dry.set_defaults(command=_dry_run)
    for command in (onnx, dry):
        add_precisions(command)


def add_precisions(command: argparse.ArgumentParser) -> None:
    """Add the options that choose the precision of each part."""
    for option, part in (("", "experts"), ("-text-encoder", "text_encoder"), ("-vae", "vae")):
        supported = ", ".join(SUPPORTED[part])
        text = f"of the {part.replace('_', ' ')}: {supported} (default: small checkpoints fp32, A14B the first)"
        command.add_argument(f"-{option}-precision", dest=part, metavar="NAME", help=text)


def named_precisions(options: argparse.Namespace) -> dict[str, str]:
    """Return the precisions that the command line names, by part."""
    return {part: value for part in SUPPORTED if (value := getattr(options, part)) is not None}


def chosen_precisions(options: argparse.Namespace, defaults: Precisions) -> Precisions:
    """Return the precisions that the command line names, with `defaults` for the rest. Raises PrecisionError."""
    return Precisions(**{**asdict(defaults), **named_precisions(options)})


def chosen_folder(options: argparse.Namespace, folder: Path, defaults: Precisions) -> Path:
    """Return the export's folder: the one of `--folder`, else `folder` with its non-default precisions appended."""
    if options.folder is not None:
        return folder
    return folder.with_name(folder.name + _suffix(chosen_precisions(options, defaults), defaults))


def ranges_file(checkpoint: Path, folder_of: Callable[[argparse.Namespace], Path]) -> Path:
    """Return the default path of a checkpoint's calibrated ranges: under build/, wherever its graphs are."""
    folder = folder_of(argparse.Namespace(checkpoint=checkpoint, folder=None))
    return folder.with_name(f"{folder.name}.fp8-ranges.json")


def job_count(text: str) -> int:
    """Parse the value of `--jobs`. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, accepted: a whole number from 1 up")
    return int(text)


def disk_error(error: OSError, checkpoint: Path | None = None) -> str:
    """Return the message, with a remedy, for a file that could not be written or read.

    `checkpoint` is the folder that the command reads, if it reads one.
    """
    if error.errno in _DISK_FULL:
        return f"{error}. Nothing half-written was left. Free some space, or choose another disk, and run it again."
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and _is_inside(error.filename, checkpoint):
        return f"{error}. Graphs of a large checkpoint are written into its folders, which must be writable."
    return str(error)


def _is_inside(name: Any, folder: Path | None) -> bool:
    return folder is not None and isinstance(name, str) and Path(name).resolve().is_relative_to(folder.resolve())


def _onnx(options: argparse.Namespace, folder_of: Callable[[argparse.Namespace], Path]) -> None:
    from export.checkpoint.folder import Checkpoint, CheckpointError, CheckpointKind

    checkpoint = Checkpoint.open(options.checkpoint)
    checkpoint.check_files()  # reports faults before the imports below, which take seconds
    from export.to_onnx.export_checkpoint import export_checkpoint
    from export.to_onnx.graph_export import ExportSettings
    from export.to_onnx.install import install_export

    precisions = chosen_precisions(options, checkpoint.default_precisions)
    place = _PLACES[options.weights]
    external_weights = checkpoint.kind is CheckpointKind.LARGE if place is None else place
    unserved = _why_not_installed(precisions, external_weights=external_weights)
    if unserved and options.must_install:
        raise CheckpointError(f"{options.checkpoint} cannot be served here: {unserved}. `make export` exports it.")
    ranges = options.fp8_ranges or ranges_file(options.checkpoint, folder_of)
    folder = chosen_folder(options, folder_of(options), checkpoint.default_precisions)
    settings = ExportSettings(
        precisions,
        external_weights=external_weights,
        jobs=options.jobs,
        fp8_ranges=ranges,
        bf16_shards=options.bf16_shards,
    )
    export_checkpoint(checkpoint, folder, settings)
    if unserved:
        print(f"exported {options.checkpoint.name} to {folder}; not installed: {unserved}", file=sys.stderr)
        return
    install_export(folder, options.repository)
    print(f"installed {options.checkpoint.name} in {options.repository}", file=sys.stderr)


def _suffix(precisions: Precisions, defaults: Precisions) -> str:
    """Name the precisions that are not defaults, so that exports in several precisions get separate folders."""
    short = {"experts": "", "text_encoder": "-text", "vae": "-vae"}
    chosen, usual = asdict(precisions), asdict(defaults)
    return "".join(f"{short[part]}-{chosen[part]}" for part in short if chosen[part] != usual[part])


def _why_not_installed(precisions: Precisions, *, external_weights: bool) -> str | None:
    """Return the reason why the embedded server cannot run the graphs. None if it can."""
    if external_weights:
        return "the weights stay in the checkpoint, for TensorRT plans to be built from"
    in_fp32 = all(io_precision(precision) == "fp32" for precision in asdict(precisions).values())
    return None if in_fp32 else "the embedded server runs graphs with FP32 inputs and outputs"


def _dry_run(options: argparse.Namespace) -> None:
    from export.graphs.precision import FOR_LARGE_WEIGHTS
    from export.to_onnx.dry_run import dry_run

    precisions = chosen_precisions(options, FOR_LARGE_WEIGHTS)
    dry_run(options.out, precisions, stored=options.stored, report=lambda row: print(json.dumps(row), flush=True))
