"""The graphs that `make compile-check` compiles: a small checkpoint's own, and A14B's at true widths, cut short.

A14B's are exported as the real ones are, without weights; a compiler reads shapes and types, not values, so every
weight is then the same few random numbers, repeated in a file.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

import onnx_ir as ir
import torch
from diffusers import WanTransformer3DModel
from torch import nn

from export.a14b_stand_in import A14B_CONFIGS, TEXT_LENGTH
from export.checkpoint import facts_from_checkpoint, module_from_checkpoint
from export.compile_table import A14B_BLOCKS, SMALL
from export.graph_table import GRAPHS
from export.graphs.fp8 import needed_ranges, put_in_fp8
from export.precision import attention_is_fp8, is_fp8
from export.to_onnx import onnx_from_module, save
from export.weightless import shell_of, weightless_graph
from wan_t2v.facts import ModelFacts

WEIGHTS_FILE = "random.weights"
_CUTS: Mapping[str, Mapping[str, int]] = {
    "transformer": {"num_layers": A14B_BLOCKS},
    "text_encoder": {"num_layers": 1, "vocab_size": 1024},
    "vae": {},
}
_TORCH_TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.FLOAT16: torch.float16,
}


def compile_facts(model: str, checkpoint: Path) -> ModelFacts:
    """Facts of the small checkpoint, and with A14B's text sizes those of A14B: the latent grid is the same."""
    facts = facts_from_checkpoint(checkpoint)
    if model == SMALL:
        return facts
    return replace(facts, text_length=TEXT_LENGTH, text_dim=A14B_CONFIGS["transformer/config.json"]["text_dim"])


def compile_graph(model: str, graph: str, precision: str, checkpoint: Path, path: Path) -> Path:
    """Export a graph in `precision` to `path`; A14B's gets its weights from files beside it."""
    facts = compile_facts(model, checkpoint)
    component = GRAPHS[graph].component
    if model == SMALL:
        module = module_from_checkpoint(checkpoint, component, precision)
        return onnx_from_module(_in_fp8_if_asked(module, precision), graph, facts, path)
    config = path.parent / component / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({**A14B_CONFIGS[f"{component}/config.json"], **_CUTS[component]}), encoding="utf-8")
    shell = _in_fp8_if_asked(shell_of(path.parent, component), precision)
    traced, call = weightless_graph(shell, graph, facts, precision)
    _attach_random(traced, path.parent)
    return save(traced, call, path)


def _in_fp8_if_asked(module: nn.Module, precision: str) -> nn.Module:
    """All blocks in FP8, also the outer ones, since A14B's only one is such; every range is one."""
    if is_fp8(precision):
        expert = cast(WanTransformer3DModel, module)
        blocks = range(len(expert.blocks))
        ranges = dict.fromkeys(needed_ranges(blocks), 1.0)
        put_in_fp8(expert, ranges, blocks=blocks, attention=attention_is_fp8(precision))
    return module


def _attach_random(model: ir.Model, folder: Path) -> None:
    """Give every weight a place of its own in one file. TensorRT refuses two weights that begin at the same byte."""
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
                _write_random(file, size, _TORCH_TYPES[value.dtype])


def _write_random(file: BinaryIO, size: int, dtype: torch.dtype) -> None:
    """`size` bytes of small random numbers, the same million over and over."""
    numbers = (torch.randn(2**20, generator=torch.Generator().manual_seed(0)) / 50).to(dtype)
    block = numbers.view(torch.uint8).numpy().tobytes()
    for start in range(0, size, len(block)):
        file.write(block[: size - start])
