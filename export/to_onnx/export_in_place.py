"""Export of one graph in place, beside the shards that hold its weights, for a checkpoint too large to load.

    <checkpoint>/transformer/high_noise_expert.bf16.onnx      beside diffusion_pytorch_model-00001-of-00012.safetensors

FP8 and INT8 weights are not part of the checkpoint and get their own file there (`quantisation/weights.py`).
Graphs of several precisions can be there at the same time. The checkpoint's own files do not change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from export.checkpoint.folder import Checkpoint
from export.checkpoint.meta_module import shell_of
from export.checkpoint.weights.component_weights import weights_of
from export.graphs.precision import torch_dtype
from export.graphs.registry import GRAPHS
from export.process_cost import ProcessCost, process_cost
from export.quantisation.weights import write_eight_bit_weights
from export.to_onnx.check import Structure, check_shapes, structure
from export.to_onnx.exporter import save
from export.to_onnx.external_data import ExternalData, attach_external_data
from export.to_onnx.weightless_graph import weightless_graph
from wan_t2v.shapes import VideoShape

CHECKED_SIZES = (VideoShape(81, 480, 832), VideoShape(81, 720, 1280))


@dataclass(frozen=True)
class InPlaceGraph:
    """A written graph: its structure, the external data that it refers to, and the cost of its export."""

    graph: str
    path: Path
    structure: Structure
    external_data: ExternalData
    cost: ProcessCost


def in_place_path(folder: Path, graph: str, precision: str) -> Path:
    """Return the path of the graph in a precision."""
    return folder / GRAPHS[graph].component / f"{graph}.{precision}.onnx"


def export_in_place(
    checkpoint: Checkpoint,
    graph: str,
    precision: str,
    *,
    prepare: Callable[[nn.Module], nn.Module] = lambda module: module,
    weights_folder: Path | None = None,
) -> InPlaceGraph:
    """Trace a graph without weights, attach the external weights, write and check it.

    `prepare` may change the module before it is traced. `weights_folder` has copies of the component's shards that
    replace the checkpoint's own.

    Raises CheckpointError before tracing if the weights do not fit the config. Raises GraphError, and removes the
    graph, if its shapes are wrong.
    """
    source = GRAPHS[graph]
    folder = weights_folder or checkpoint.folder
    shell = shell_of(folder, source.component)
    weights = weights_of(folder, source.component, shell)
    module, path = prepare(shell), in_place_path(folder, graph, precision)
    with write_eight_bit_weights(path, module, weights, torch_dtype(precision)) as placed:
        model, call = weightless_graph(module, graph, checkpoint.facts, precision)
        external_data = attach_external_data(
            model, {f"{source.prefix}{name}": tensor for name, tensor in placed.items()}
        )
        save(model, call, path)
        try:
            check_shapes(path, graph, checkpoint.facts, CHECKED_SIZES)
        except BaseException:
            path.unlink()
            raise
    return InPlaceGraph(graph, path, structure(path), external_data, process_cost())
