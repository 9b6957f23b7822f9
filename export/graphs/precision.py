"""Precision table: the precisions in which each part of the model can be exported, with reasons.

The graph states its precision, and TensorRT builds it strongly typed. The FP32 modules that diffusers keeps in a
half-precision expert (time embedder, modulation, norms, rotary tables) are FP32 in the graph too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from export.errors import ExpectedError
from wan_t2v.contract import EXPERTS, VAE_DECODERS

PART_OF = {"text_encoder": "text_encoder", **dict.fromkeys(EXPERTS, "experts"), **dict.fromkeys(VAE_DECODERS, "vae")}
SUPPORTED: Mapping[str, Mapping[str, str]] = {
    "experts": {
        "bf16": "what Wan, diffusers and MLPerf run; the default for weights that one ONNX file cannot hold",
        "fp16": "what the design note asks for; unproven on A14B, whose activations may pass 65,504",
        "fp8": "linear layers in FP8 between BF16, half the weights; needs `python -m export calibrate` first",
        "fp8-attention": "as fp8, and both products of attention in FP8",
        "int8": "linear layers in INT8 between FP32, for ONNX Runtime; needs `python -m export calibrate` first",
        "int8-bf16": "as int8 between BF16, for TensorRT: half the weights on GPUs that have no FP8",
        "fp32": "the reference, and what ONNX Runtime runs on a CPU; 57 GB for one expert of A14B",
        "fp8-fp32": "as fp8 between FP32: what FP8 alone costs in quality, on a CPU",
        "fp8-attention-fp32": "as fp8-attention between FP32",
    },
    "text_encoder": {
        "bf16": "as published; T5 was trained in it",
        "fp32": "the reference; 23 GB for A14B",
    },
    "vae": {
        "fp32": "the reference; 0.3 GB for A14B",
        "bf16": "half the caches; Wan's own code decodes so under autocast",
        "fp16": "half the caches with three more bits of fraction than bf16",
    },
}
UNSUPPORTED = {
    ("text_encoder", "fp16"): "T5 overflows in FP16, and its graph would mix types: transformers keeps `wo` in FP32",
}
NOT_IN_PLANS = {
    ("experts", "int8"): "it is ONNX Runtime's form of INT8, and TensorRT's is `int8-bf16`",
}
FP8_IO_PRECISION = {"fp8": "bf16", "fp8-attention": "bf16", "fp8-fp32": "fp32", "fp8-attention-fp32": "fp32"}
INT8_IO_PRECISION = {"int8": "fp32", "int8-bf16": "bf16"}
IN_PLANS = {  # what TensorRT builds
    part: tuple(name for name in supported if (part, name) not in NOT_IN_PLANS) for part, supported in SUPPORTED.items()
}
QUANTIZED_ATTENTION = "TRT_QuantizedAttention"  # TensorRT's operator for attention in FP8
LINEARS_OF_A_BLOCK = 10  # query, key, value and output of two attentions, two layers of the feed-forward
_OUTER_BLOCKS, _OUTER_BLOCKS_OF_A_SMALL_EXPERT, _SMALL_EXPERT = 3, 1, 12
_TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_OPTIONS = {"experts": "--precision", "text_encoder": "--text-encoder-precision", "vae": "--vae-precision"}


class PrecisionError(ExpectedError, ValueError):
    """A precision that a part of the model does not support. The message lists the supported ones, with reasons."""


@dataclass(frozen=True)
class Precisions:
    """Precisions of one export, by part. Raises PrecisionError for one that is not in SUPPORTED."""

    experts: str = "fp32"
    text_encoder: str = "fp32"
    vae: str = "fp32"

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))

    def of(self, graph: str) -> str:
        """Return the precision of one of the five graphs."""
        precision: str = getattr(self, PART_OF[graph])
        return precision


def is_fp8(precision: str) -> bool:
    """Whether the linear layers are in FP8."""
    return precision in FP8_IO_PRECISION


def attention_is_fp8(precision: str) -> bool:
    """Whether both products of attention are in FP8."""
    return precision.startswith("fp8-attention")


def is_int8(precision: str) -> bool:
    """Whether the linear layers are in INT8."""
    return precision in INT8_IO_PRECISION


def needs_ranges(precision: str) -> bool:
    """Whether an export needs calibrated ranges."""
    return is_fp8(precision) or is_int8(precision)


def blocks_in_fp8(count: int) -> range:
    """Return which of `count` blocks are computed in FP8: all but the first and last three, where errors cost most.

    A small expert keeps only one block at each end. Embeddings and the output projection are never in FP8.
    """
    outer = _OUTER_BLOCKS if count >= _SMALL_EXPERT else _OUTER_BLOCKS_OF_A_SMALL_EXPERT
    return range(outer, count - outer)


def blocks_in_int8(count: int) -> range:
    """Return which of `count` blocks are computed in INT8: as in FP8, but all blocks of a small expert."""
    return blocks_in_fp8(count) if count >= _SMALL_EXPERT else range(count)


def blocks_in_eight_bits(precision: str, count: int) -> range:
    """Return which of `count` blocks are in FP8 or INT8; none in other precisions."""
    if is_int8(precision):
        return blocks_in_int8(count)
    return blocks_in_fp8(count) if is_fp8(precision) else range(0)


def io_precision(precision: str) -> str:
    """Return the precision of inputs, outputs and everything that is not in FP8 or INT8."""
    return {**FP8_IO_PRECISION, **INT8_IO_PRECISION}.get(precision, precision)


def torch_dtype(precision: str) -> Any:
    """Return the `torch.dtype` of inputs and outputs in a precision."""
    import torch

    return getattr(torch, _TORCH_NAMES[io_precision(precision)])


def _check(part: str, precision: str) -> None:
    if precision in SUPPORTED[part]:
        return
    reason = UNSUPPORTED.get((part, precision))
    supported = "; ".join(f"{name} ({why})" for name, why in SUPPORTED[part].items())
    raise PrecisionError(
        f"{_OPTIONS[part]} {precision}: "
        f"{'refused, ' + reason if reason else 'unknown'}. Supported for {part.replace('_', ' ')}: {supported}."
    )


IN_ONNX_RUNTIME = Precisions()  # ONNX Runtime has no BF16 kernels on a CPU, and the embedded server's configs are FP32
FOR_LARGE_WEIGHTS = Precisions(experts="bf16", text_encoder="bf16", vae="fp32")
