"""torch module to ONNX."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import nn

from export.atomic import written_file
from export.graph_table import GRAPHS, ExampleCall
from wan_t2v.facts import ModelFacts

OPSET = 23  # the first with Attention and RMSNormalization; TensorRT parses both since 10.15


def onnx_from_module(module: nn.Module, graph: str, facts: ModelFacts, path: Path) -> Path:
    """Trace `module` as `graph` (a key of GRAPHS) and write the ONNX file to `path`, whole or not at all."""
    exportable = GRAPHS[graph].module(module).eval()
    call = GRAPHS[graph].example(facts, exportable)
    with torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(
            exportable,
            call.inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(call.input_names),
            output_names=list(call.output_names),
            dynamic_shapes=call.dynamic_shapes,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _check_free_axes(model, call)
    onnx.checker.check_model(model)
    with written_file(path) as partial:
        onnx.save(model, partial)
    return path


def _check_free_axes(model: onnx.ModelProto, call: ExampleCall) -> None:
    """The exporter silently turns an axis into a constant when the trace depends on its size; refuse that."""
    for value, example in zip(model.graph.input, call.inputs, strict=True):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            free = axis in _axes_of(call, value.name)
            if free and not dim.dim_param:
                raise ValueError(f"axis {axis} of {value.name} became the constant {example.shape[axis]}")


def _axes_of(call: ExampleCall, name: str) -> dict[int, object]:
    flat = [axes for entry in call.dynamic_shapes for axes in (entry if isinstance(entry, tuple) else (entry,))]
    return dict(zip(call.input_names, flat, strict=True))[name]


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hold back the exporter's progress and its notes about torchvision and renamed axes; errors still raise."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
