"""torch programs of wan-mini for tests: a minute to make, so they are kept under build/ while they are current."""

import shutil
from pathlib import Path

from filelock import FileLock

from export.checkpoint.folder import Checkpoint
from export.to_torch_program import write_programs
from wan_t2v.engines.loader import GRAPH_FILES


def install_programs(checkpoint: Path, folder: Path) -> Path:
    with FileLock(folder.with_suffix(".lock")):  # tests run in two processes
        return write_programs(Checkpoint.open(checkpoint), folder)


def copy_programs(programs: Path, repository: Path) -> None:
    """Put the programs and their manifests beside the graphs of a repository."""
    file = GRAPH_FILES["torch"]
    for graph in programs.iterdir():
        for name in (file.name, file.manifest):
            shutil.copyfile(graph / "1" / name, repository / graph.name / "1" / name)
