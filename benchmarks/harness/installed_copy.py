"""Checkpoint of a benchmark, exported and installed in the benchmark's own copy of the model repository."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.repository_copy import copy_repository
from export.checkpoint.folder import Checkpoint
from export.to_onnx.export_checkpoint import export_checkpoint
from export.to_onnx.install import install_export

CHECKPOINT = Path("checkpoints/wan-mini")


@dataclass(frozen=True)
class Installed:
    """Folders with the same weights: a diffusers checkpoint, exported graphs, a model repository."""

    checkpoint: Path
    exported: Path
    repository: Path


def export_folder(checkpoint: Path) -> Path:
    """Return the folder of `make export` for a checkpoint. Checkpoints of one name get different folders."""
    parent = checkpoint.resolve().parent.name
    return Path("build") / (checkpoint.name if parent == "checkpoints" else f"{parent}-{checkpoint.name}")


def install_copy(checkpoint: Path, repository: Path, folder: Path) -> Installed:
    """Export the checkpoint unless build/ has it, copy `repository` into `folder`, and install the export there."""
    exported = export_checkpoint(Checkpoint.open(checkpoint), export_folder(checkpoint))
    return Installed(checkpoint, exported, install_export(exported, copy_repository(repository, folder)))
