"""A checkpoint component without its weights, and its graph: A14B's experts are traced in under 2 GB of memory.

Parameters are fake tensors, which know type and shape and hold nothing. The traced graph's weights are then opaque to
the optimiser, so nothing is folded into a copy of them, and `attached_weights` says where each lies in the checkpoint.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from onnxscript import optimizer, rewriter
from onnxscript.rewriter import onnx_fusions
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers import UMT5Config, UMT5EncoderModel

from export.graph_table import GRAPHS, ExampleCall
from export.precision import torch_dtype
from export.to_onnx import traced
from wan_t2v.facts import ModelFacts

OPTIMIZER_ROUNDS = 2  # as the exporter's own optimiser


def shell_of(checkpoint: Path, component: str) -> nn.Module:
    """The component's module from its config alone; parameters have shapes and no storage (the `meta` device)."""
    with torch.device("meta"):
        module: nn.Module = _BUILDERS[component](checkpoint / component)
    if isinstance(module, WanTransformer3DModel):  # its tables are computed, not stored, so they must be real
        module.rope = WanRotaryPosEmbed(
            module.config.attention_head_dim, module.config.patch_size, module.config.rope_max_seq_len
        )
    missing = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if missing:
        raise NotImplementedError(f"{component} computes buffers that would be lost without weights: {missing}")
    return module.eval().requires_grad_(False)


def weightless_graph(shell: nn.Module, graph: str, facts: ModelFacts, precision: str) -> tuple[ir.Model, ExampleCall]:
    """Trace the module of `shell_of` as `graph` in a precision, optimise it, and leave its weights without values.

    For FP8 the shell must have been put in FP8 already.
    Every weight is an initializer named as the export form's parameter, without `const_value`. The call that was traced
    comes with it.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        _fill_with_fakes(shell, torch_dtype(precision))
    exportable = GRAPHS[graph].module(shell).eval()
    with mode:
        call = GRAPHS[graph].example(facts, exportable)
        model = traced(exportable, call, optimize=False).model
    _make_opaque(model)
    with _quiet_optimizer():
        _optimize(model)
    return model, call


def is_fp32_island(module: nn.Module, name: str) -> bool:
    """Whether `from_pretrained` keeps the parameter in FP32 at every precision (diffusers' keep list)."""
    if isinstance(module, UMT5EncoderModel):
        return False  # transformers applies its list to FP16 alone, which is not offered for the text encoder
    kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    return not kept.isdisjoint(name.split("."))


def _fill_with_fakes(module: nn.Module, dtype: torch.dtype) -> None:
    """Give every parameter the type that `from_pretrained(torch_dtype=dtype)` would."""
    fakes: dict[int, nn.Parameter] = {}  # tied parameters stay one
    for prefix, child in module.named_modules():
        for name, parameter in child.named_parameters(recurse=False):
            island = is_fp32_island(module, f"{prefix}.{name}")
            kept_type = parameter.dtype if parameter.dtype == torch.float8_e4m3fn else dtype
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


def _expert(folder: Path) -> Any:
    return WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder, local_files_only=True))


def _vae(folder: Path) -> Any:
    return AutoencoderKLWan.from_config(AutoencoderKLWan.load_config(folder, local_files_only=True))


def _text_encoder(folder: Path) -> Any:
    config = UMT5Config.from_pretrained(folder, local_files_only=True)
    return UMT5EncoderModel._from_config(config, attn_implementation="eager")


_BUILDERS = {"text_encoder": _text_encoder, "transformer": _expert, "transformer_2": _expert, "vae": _vae}
