"""Trace a module without its weights, which takes under 2 GB of memory for an expert of A14B.

Parameters are fake tensors, which have a type and a shape but no values. The optimiser therefore cannot fold a traced
graph's weights into new constants. `external_data.py` then sets each weight's location in the checkpoint.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from onnxscript import optimizer, rewriter
from onnxscript.rewriter import onnx_fusions
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from export.checkpoint.meta_module import is_fp32_island
from export.graphs.precision import torch_dtype
from export.graphs.registry import GRAPHS, ExampleCall
from export.to_onnx.exporter import trace
from wan_t2v.facts import ModelFacts

OPTIMIZER_ROUNDS = 2  # as in the exporter's own optimiser
EIGHT_BITS = (torch.float8_e4m3fn, torch.int8)


def weightless_graph(shell: nn.Module, graph: str, facts: ModelFacts, precision: str) -> tuple[ir.Model, ExampleCall]:
    """Trace the module of `shell_of` as `graph` in a precision, and optimise the graph. Weights have no values.

    For FP8 and INT8 the module must be quantised already. Returns the model and the traced call. Every weight is an
    initializer with the name of the export form's parameter, without `const_value`.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        _fill_with_fakes(shell, torch_dtype(precision))
    exportable = GRAPHS[graph].module(shell).eval()
    with mode:
        call = GRAPHS[graph].example(facts, exportable)
        model = trace(exportable, call, optimize=False).model
    _make_opaque(model)
    with _quiet_optimizer():
        _optimize(model)
    return model, call


def _fill_with_fakes(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace every parameter by a fake tensor of the type that `from_pretrained(torch_dtype=dtype)` gives."""
    fakes: dict[int, nn.Parameter] = {}  # by id, so that tied parameters stay tied
    for prefix, child in module.named_modules():
        for name, parameter in child.named_parameters(recurse=False):
            island = is_fp32_island(module, f"{prefix}.{name}")
            kept_type = parameter.dtype if parameter.dtype in EIGHT_BITS else dtype
            fake = torch.empty(parameter.shape, dtype=torch.float32 if island else kept_type, device="cpu")
            setattr(child, name, fakes.setdefault(id(parameter), nn.Parameter(fake, requires_grad=False)))


def _make_opaque(model: ir.Model) -> None:
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and isinstance(getattr(tensor, "raw", None), FakeTensor):
            value.shape, value.dtype = ir.Shape(tensor.raw.shape), tensor.dtype
            value.const_value = None


def _optimize(model: ir.Model) -> None:
    """Optimise as the exporter does after tracing (onnxscript's `optimize_ir` and `fuse`), without one rule.

    `SlicesSplit` compares every pair of nodes, which takes minutes for 9,000 nodes, and matches none in these graphs.
    """
    rules = [rule for rule in rewriter._DEFAULT_REWRITE_RULES if rule.name != "SlicesSplit"]
    optimizer.inline(model)
    for _ in range(OPTIMIZER_ROUNDS):
        optimizer.fold_constants_ir(model, onnx_shape_inference=True)
        rewriter.rewrite(model, rules)
    for optimize in (
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        optimize(model)
    onnx_fusions.fuse(model)


@contextmanager
def _quiet_optimizer() -> Iterator[None]:
    """Hide onnx_ir's note for every initializer without a value."""
    log = logging.getLogger("onnx_ir")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
