"""Programs whose weights stay in the checkpoint's files, for components that are too large to load.

Links beside a program name the files. They are symbolic: ONNX's tools refuse a checkpoint with hard links.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from export.atomic import write_atomically
from export.checkpoint.folder import Checkpoint
from export.checkpoint.meta_module import shell_of
from export.checkpoint.weights.component_weights import weights_of
from export.checkpoint.weights.safetensors_index import StoredTensor
from export.graphs.registry import GRAPHS
from export.program_file import save_program, trace_program
from export.weightless_module import weightless_module
from wan_t2v.engines.program_weights import ProgramWeights, StoredWeight
from wan_t2v.engines.torch_program import WEIGHTS, weights_beside


def write_weightless_program(graph: str, checkpoint: Checkpoint, path: Path, *, precision: str) -> Path:
    """Trace the graph without weights, link the files that hold them beside `path`, and write the program there.

    Nothing is compared with the module, which may not fit in memory. Raises CheckpointError for weights that do not fit
    their config.
    """
    origin = GRAPHS[graph]
    shell = shell_of(checkpoint.folder, origin.component)
    stored = weights_of(checkpoint.folder, origin.component, shell, links_allowed=True)
    traced = weightless_module(shell, graph, checkpoint.facts, precision)
    with traced.mode:
        program = trace_program(traced.module, traced.call)
    for name, parameter in program.state_dict.items():
        without_storage = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        program.state_dict[name] = nn.Parameter(without_storage, requires_grad=False)
    program.example_inputs = None  # fake tensors, which torch cannot write
    earlier = _files_beside(path)
    weights = _put_beside(path.parent, {name: stored[name.removeprefix(origin.prefix)] for name in program.state_dict})
    save_program(program, traced.call, path, extra={WEIGHTS: weights.to_json()})
    for name in earlier - set(weights.files):
        (path.parent / name).unlink(missing_ok=True)
    return path


def _put_beside(folder: Path, tensors: Mapping[str, StoredTensor]) -> ProgramWeights:
    for source in sorted({tensor.path for tensor in tensors.values()}):
        _link(source, folder)
    places = {name: StoredWeight(t.path.name, t.dtype, t.shape, t.offset) for name, t in tensors.items()}
    return ProgramWeights.of_files(folder, places)


def _link(source: Path, folder: Path) -> None:
    """Write a link to `source` into `folder`, unless it is there."""
    link = folder / source.name
    if link.exists() and link.samefile(source):
        return
    with write_atomically(link) as partial:
        partial.symlink_to(source.resolve())


def remove_links(path: Path) -> None:
    """Remove the links of the program at `path`, which is about to be replaced by one with its weights inside."""
    for name in _files_beside(path):
        (path.parent / name).unlink(missing_ok=True)


def _files_beside(path: Path) -> set[str]:
    """Return the names of the files that the program at `path` reads. Empty if there is none, or one with weights."""
    try:
        weights = weights_beside(path)
    except (OSError, ValueError):
        return set()
    return set(weights.files) if weights else set()


def link_weights(checkpoint: Checkpoint, graph: str, path: Path) -> bool:
    """Link the checkpoint's files that the program at `path` reads again, if a link is missing or names another file.

    Returns whether they are those that the program was made for, also if its weights are inside it.
    """
    try:
        weights = weights_beside(path)
        if weights is None:
            return True
        for name in weights.files:
            _link(checkpoint.folder / GRAPHS[graph].component / name, path.parent)
        weights.check(path.parent)
    except (OSError, ValueError):
        return False
    return True
