"""ONNX graphs of `make compile-check`: the small checkpoint's, and A14B's with true widths and fewer layers.

A14B's graphs are exported without weights, as in a real export, and refer to a file of random weights. All weights
differ: TensorRT stores equal weights once, which would make the plan smaller than a real one.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, cast

import onnx_ir as ir
import torch
from diffusers import WanTransformer3DModel
from torch import nn

from export.checkpoint.folder import Checkpoint
from export.checkpoint.meta_module import shell_of
from export.graphs.fp8_layers import needed_ranges, put_in_fp8
from export.graphs.int8_layers import SCALES, form_of, input_ranges, put_in_int8
from export.graphs.precision import attention_is_fp8, is_fp8, is_int8
from export.graphs.registry import GRAPHS
from export.to_onnx.a14b_dummy import A14B_CONFIGS
from export.to_onnx.exporter import onnx_from_module, save
from export.to_onnx.weightless_graph import weightless_graph
from export.to_plan.compile_cases import (
    A14B_BLOCKS,
    A14B_LAYERS,
    A14B_VOCABULARY,
    SMALL,
    compile_facts,
    quantised_blocks,
)

WEIGHTS_FILE = "random.weights"
_CUTS: Mapping[str, Mapping[str, int]] = {
    "transformer": {"num_layers": A14B_BLOCKS},
    "transformer_2": {"num_layers": A14B_BLOCKS},
    "text_encoder": {"num_layers": A14B_LAYERS, "vocab_size": A14B_VOCABULARY},
    "vae": {},
}
_TORCH_TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    ir.DataType.INT8: torch.int8,
}


def compile_graph(model: str, graph: str, precision: str, checkpoint: Checkpoint, path: Path) -> Path:
    """Export a graph in `precision` to `path`, and return `path`. A14B's weights are in a file beside it."""
    facts = compile_facts(model, checkpoint.facts)
    component = GRAPHS[graph].component
    if model == SMALL:
        module = checkpoint.module(component, precision)
        return onnx_from_module(_in_eight_bits_if_named(module, model, precision), graph, facts, path)
    config = path.parent / component / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({**A14B_CONFIGS[f"{component}/config.json"], **_CUTS[component]}), encoding="utf-8")
    shell = _in_eight_bits_if_named(shell_of(path.parent, component), model, precision)
    traced, call = weightless_graph(shell, graph, facts, precision)
    _attach_random(traced, path.parent)
    return save(traced, call, path)


def _in_eight_bits_if_named(module: nn.Module, model: str, precision: str) -> nn.Module:
    """Quantise an expert in place for an FP8 or INT8 precision, with all ranges set to 1. Returns the module."""
    if not (is_fp8(precision) or is_int8(precision)):
        return module
    expert = cast(WanTransformer3DModel, module)
    blocks = quantised_blocks(model, precision, len(expert.blocks))
    if is_int8(precision):
        put_in_int8(expert, dict.fromkeys(input_ranges(blocks), 1.0), blocks=blocks, form=form_of(precision))
    else:
        ranges = dict.fromkeys(needed_ranges(blocks), 1.0)
        put_in_fp8(expert, ranges, blocks=blocks, attention=attention_is_fp8(precision))
    return module


def _attach_random(model: ir.Model, folder: Path) -> None:
    """Write random weights to one file, each at its own offset: TensorRT refuses two weights at the same offset."""
    with (folder / WEIGHTS_FILE).open("wb") as file:
        for value in model.graph.initializers.values():
            if value.const_value is None:
                assert value.dtype is not None and value.shape is not None
                size = math.prod(value.shape.numpy()) * int(value.dtype.itemsize)
                value.const_value = ir.ExternalTensor(
                    WEIGHTS_FILE,
                    file.tell(),
                    size,
                    value.dtype,
                    shape=ir.Shape(value.shape),
                    name=str(value.name),
                    base_dir=folder,
                )
                is_scale = str(value.name).endswith(SCALES)
                _write_random(file, size, _TORCH_TYPES[value.dtype], is_scale=is_scale)


def _write_random(file: BinaryIO, size: int, dtype: torch.dtype, *, is_scale: bool) -> None:
    """Write `size` bytes of small random numbers. A block of 2^20 numbers, seeded by the file offset, is repeated."""
    drawn = torch.randn(2**20, generator=torch.Generator().manual_seed(file.tell()))
    if is_scale:
        drawn = drawn.abs() + 1  # TensorRT accepts positive scales only
    numbers = (drawn * 40 if dtype == torch.int8 else drawn / 50).to(dtype)
    block = numbers.view(torch.uint8).numpy().tobytes()
    for start in range(0, size, len(block)):
        file.write(block[: size - start])
