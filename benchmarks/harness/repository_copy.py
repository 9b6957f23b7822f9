"""A copy of the installed model repository, for benchmarks that change its configs."""

import shutil
from pathlib import Path

from wan_t2v.contract import GRAPHS


def copy_repository(repository: Path, folder: Path) -> Path:
    """Copy the repository into `folder`."""
    return Path(shutil.copytree(repository, folder / "model_repository", ignore=shutil.ignore_patterns("__pycache__")))


def log_intervals(repository: Path, folder: Path) -> Path:
    """Have every graph of this copy write down when it ran, under `folder`; see benchmarks/harness/intervals.py."""
    folder.mkdir(parents=True, exist_ok=True)
    for graph in GRAPHS:
        with (repository / graph / "configs/cpu.pbtxt").open("a", encoding="utf-8") as config:
            config.write(f'parameters {{ key: "interval_log", value {{ string_value: "{folder}" }} }}\n')
    return folder
