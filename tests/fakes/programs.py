"""torch programs of wan-mini for tests: a minute to make, so they are kept under build/ while they are current."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from export.checkpoint.folder import Checkpoint
from export.graphs.precision import IN_ONNX_RUNTIME, Precisions
from export.to_torch_program import write_programs
from wan_t2v.contract import GRAPHS
from wan_t2v.engines.loader import GRAPH_FILES


def install_programs(
    checkpoint: Path,
    folder: Path,
    graphs: Sequence[str] = tuple(GRAPHS),
    *,
    precisions: Precisions = IN_ONNX_RUNTIME,
) -> Path:
    with FileLock(folder.with_suffix(".lock")):  # tests run in two processes
        return write_programs(Checkpoint.open(checkpoint), folder, graphs=graphs, precisions=precisions)


def copy_programs(programs: Path, repository: Path, graphs: Sequence[str] = tuple(GRAPHS)) -> None:
    """Put the programs and their manifests beside the graphs of a repository."""
    file = GRAPH_FILES["torch"]
    for graph in graphs:
        for name in (file.name, file.manifest):
            shutil.copyfile(programs / graph / "1" / name, repository / graph / "1" / name)
