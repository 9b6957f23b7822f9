"""Quantisation of an expert to FP8 or INT8: the ranges that a precision needs, and the conversion."""

from collections.abc import Mapping

from diffusers import WanTransformer3DModel

from export.graphs import fp8_layers, int8_layers
from export.graphs.precision import attention_is_fp8, blocks_in_fp8, blocks_in_int8, is_fp8, is_int8


def ranges_of(precision: str, blocks: int) -> list[str]:
    """List the names of the calibrated ranges that an expert with `blocks` blocks needs in a precision."""
    if is_fp8(precision):
        return fp8_layers.needed_ranges(blocks_in_fp8(blocks))
    return int8_layers.input_ranges(blocks_in_int8(blocks)) if is_int8(precision) else []


def quantise(expert: WanTransformer3DModel, precision: str, ranges: Mapping[str, float]) -> None:
    """Quantise `expert` to FP8 or INT8 in place, with the ranges of `ranges_of`. Other precisions do not change it."""
    count = len(expert.blocks)
    if is_fp8(precision):
        attention = attention_is_fp8(precision)
        fp8_layers.put_in_fp8(expert, ranges, blocks=blocks_in_fp8(count), attention=attention)
    elif is_int8(precision):
        form = int8_layers.form_of(precision)
        int8_layers.put_in_int8(expert, ranges, blocks=blocks_in_int8(count), form=form)
