"""Export of a torch module to an ONNX file."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch import nn

from export.atomic import write_atomically
from export.graphs import fp8_attention, fp8_layers, int8_layers
from export.graphs.registry import GRAPHS, ExampleCall
from wan_t2v.facts import ModelFacts

OPSET = 23  # the first opset with Attention and RMSNormalization; TensorRT parses both since 10.15
LARGEST_INSIDE = 1_800_000_000  # largest bytes of weights in one ONNX file; protobuf's limit is 2 GiB
# Python origin of each node with full paths: three quarters of a file without weights, and useless on other machines.
_TRACES = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node", "namespace")


def onnx_from_module(module: nn.Module, graph: str, facts: ModelFacts, path: Path) -> Path:
    """Trace `module` as `graph` (a key of GRAPHS), write the ONNX file to `path` atomically, and return `path`.

    The graph has the module's precision. Load a half-precision module with `from_pretrained(torch_dtype=...)`, which
    keeps some modules in FP32; `.to()` does not. Weights are inside the file, or, above LARGEST_INSIDE, in
    `<path>.data`. Raises ValueError if a dynamic axis became a constant.
    """
    exportable = GRAPHS[graph].module(module).eval()
    call = GRAPHS[graph].example(facts, exportable)
    program = trace(exportable, call)
    weights = sum(v.const_value.nbytes for v in program.model.graph.initializers.values() if v.const_value is not None)
    return save(program.model, call, path, data=None if weights <= LARGEST_INSIDE else f"{path.name}.data")


def trace(exportable: nn.Module, call: ExampleCall, *, optimize: bool = True) -> torch.onnx.ONNXProgram:
    """Trace an export form with an example call. With fake tensors, `optimize` must be off."""
    with torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(
            exportable,
            call.inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(call.input_names),
            output_names=list(call.output_names),
            dynamic_shapes=call.dynamic_shapes,
            custom_translation_table={**fp8_layers.TO_ONNX, **fp8_attention.TO_ONNX, **int8_layers.TO_ONNX},
            verbose=False,
            optimize=optimize,
        )
    assert program is not None
    return program


def save(model: ir.Model, call: ExampleCall, path: Path, *, data: str | None = None) -> Path:
    """Check a traced model and write it atomically. `data` names a file beside it for its weights.

    Raises ValueError if a dynamic axis became a constant, and ONNX's errors for an invalid model.
    """
    for node in model.graph:
        for key in _TRACES:
            node.metadata_props.pop(key, None)
    fp8_attention.define_quantized_attention(model, OPSET)
    with write_atomically(path) as partial:
        ir.save(model, partial, external_data=data)
        _check_free_axes(onnx.load(partial, load_external_data=False), call)
        onnx.checker.check_model(partial)
    return path


def _check_free_axes(model: onnx.ModelProto, call: ExampleCall) -> None:
    """Refuse a dynamic axis that became a constant, as the exporter does silently if the trace depends on its size."""
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
    """Hide the exporter's progress and its notes about torchvision and renamed axes. Errors are still raised."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
