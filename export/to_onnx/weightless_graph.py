"""Trace a module without its weights to an ONNX graph.

Its parameters have no values, so the optimiser cannot fold a traced graph's weights into new constants.
`external_data.py` then sets each weight's location in the checkpoint.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import optimizer, rewriter
from onnxscript.rewriter import onnx_fusions
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from export.graphs.registry import ExampleCall
from export.to_onnx.exporter import trace
from export.weightless_module import weightless_module
from wan_t2v.facts import ModelFacts

OPTIMIZER_ROUNDS = 2  # as in the exporter's own optimiser


def weightless_graph(shell: nn.Module, graph: str, facts: ModelFacts, precision: str) -> tuple[ir.Model, ExampleCall]:
    """Trace the module of `shell_of` as `graph` in a precision, and optimise the graph. Weights have no values.

    For FP8 and INT8 the module must be quantised already. Returns the model and the traced call. Every weight is an
    initializer with the name of the export form's parameter, without `const_value`.
    """
    weightless = weightless_module(shell, graph, facts, precision)
    with weightless.mode:
        model = trace(weightless.module, weightless.call, optimize=False).model
    _make_opaque(model)
    with _quiet_optimizer():
        _optimize(model)
    return model, weightless.call


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
