"""An expert of a checkpoint put in FP8: which of its blocks, in which precision."""

from collections.abc import Mapping

from diffusers import WanTransformer3DModel

from export.graphs.fp8 import put_in_fp8
from export.precision import attention_is_fp8, blocks_in_fp8


def in_fp8(expert: WanTransformer3DModel, precision: str, ranges: Mapping[str, float]) -> None:
    """Put `expert` in place in FP8: its inner blocks, by the ranges that calibration brought."""
    blocks = blocks_in_fp8(len(expert.blocks))
    put_in_fp8(expert, ranges, blocks=blocks, attention=attention_is_fp8(precision))
