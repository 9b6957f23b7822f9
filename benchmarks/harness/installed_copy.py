"""The benchmark's checkpoint, exported and installed in a repository of the benchmark's own."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.repository_copy import copy_repository
from export.checkpoint.folder import Checkpoint
from export.to_onnx.export_checkpoint import export_checkpoint
from export.to_onnx.install import install_export

CHECKPOINT = Path("checkpoints/wan-mini")


@dataclass(frozen=True)
class Installed:
    """The same weights as a diffusers folder, as exported graphs and in a model repository."""

    checkpoint: Path
    exported: Path
    repository: Path


def export_folder(checkpoint: Path) -> Path:
    """Where `make export` puts a checkpoint's graphs, so that two of one name do not overwrite each other's."""
    parent = checkpoint.resolve().parent.name
    return Path("build") / (checkpoint.name if parent == "checkpoints" else f"{parent}-{checkpoint.name}")


def install_copy(checkpoint: Path, repository: Path, folder: Path) -> Installed:
    """Export what is not exported yet (kept under build/), copy `repository` into `folder` and install it there."""
    exported = export_checkpoint(Checkpoint.open(checkpoint), export_folder(checkpoint))
    return Installed(checkpoint, exported, install_export(exported, copy_repository(repository, folder)))
