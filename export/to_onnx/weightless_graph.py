"""Trace a module without its weights: A14B's experts become graphs in under 2 GB of memory.

Parameters are fake tensors, which know type and shape and hold nothing. The traced graph's weights are then opaque to
the optimiser, so nothing is folded into a copy of them, and `external_data.py` says where each lies in the checkpoint.
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

OPTIMIZER_ROUNDS = 2  # as the exporter's own optimiser
EIGHT_BITS = (torch.float8_e4m3fn, torch.int8)


def weightless_graph(shell: nn.Module, graph: str, facts: ModelFacts, precision: str) -> tuple[ir.Model, ExampleCall]:
    """Trace the module of `shell_of` as `graph` in a precision, optimise it, and leave its weights without values.

    For eight bits the shell must have been put in them already.
    Every weight is an initializer named as the export form's parameter, without `const_value`. The call that was traced
    comes with it.
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
    """Give every parameter the type that `from_pretrained(torch_dtype=dtype)` would."""
    fakes: dict[int, nn.Parameter] = {}  # tied parameters stay one
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
    """What the exporter does after tracing (onnxscript's `optimize_ir` and `fuse`), but for one rule.

    `SlicesSplit` compares every node with every other, minutes for 9,000 nodes, and finds nothing in these graphs.
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
    """Hold back a note for every initializer without a value."""
    log = logging.getLogger("onnx_ir")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
