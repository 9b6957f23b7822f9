"""Copy of the installed model repository, for benchmarks that change its configs."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from wan_t2v.contract import GRAPHS


def copy_repository(repository: Path, folder: Path) -> Path:
    """Copy the repository into `folder`, and return the copy's path."""
    return Path(shutil.copytree(repository, folder / "model_repository", ignore=shutil.ignore_patterns("__pycache__")))


def log_intervals(repository: Path, folder: Path) -> Path:
    """Make every graph of this copy log its intervals in `folder` (`intervals.py` reads them). Returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for graph in GRAPHS:
        add_parameter(repository, graph, "interval_log", str(folder))
    return folder


def add_parameter(repository: Path, model: str, name: str, value: str) -> None:
    """Append a parameter to the config with which the embedded server of this copy loads a model."""
    with (repository / model / "configs/cpu.pbtxt").open("a", encoding="utf-8") as config:
        config.write(f'parameters {{ key: "{name}", value {{ string_value: "{value}" }} }}\n')


def use_openvino(repository: Path, graphs: Iterable[str], *, precision: str) -> None:
    """Have OpenVINO run these graphs of this copy, in `f32` or `bf16`."""
    for graph in graphs:
        add_parameter(repository, graph, "engine", "openvino")
        add_parameter(repository, graph, "inference_precision", precision)
