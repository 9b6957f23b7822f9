"""Comparison of a compiled plan's size with the weight bytes that placement expects."""

from dataclasses import replace

from export.checkpoint.architecture import A14B, Architecture
from export.graphs.precision import PART_OF, io_precision
from export.placement.gpu_memory import MIB, GpuMemory, ServingProfile
from export.to_plan.compile_cases import A14B_BLOCKS, A14B_LAYERS, A14B_VOCABULARY, SMALL, CompileCase
from export.to_plan.network_check import NetworkError
from wan_t2v.shapes import VideoShape

TOLERANCE = 0.1
CODE_BYTES = 12 * MIB  # kernels and names in a plan: negligible for A14B, as large as the weights for wan-mini
_ANY_SIZE = VideoShape(17, 128, 128)
_INNER = 13  # blocks: experts of 13 and 12 blocks have the same outer blocks, and differ by one inner block


def check_plan_bytes(case: CompileCase, small: Architecture, plan_bytes: int) -> None:
    """Refuse a plan whose size differs from placement's weight bytes. Raises NetworkError.

    `small` is the small checkpoint's architecture.
    """
    expected = placed_weight_bytes(case, small)
    if not expected * (1 - TOLERANCE) <= plan_bytes <= expected * (1 + TOLERANCE) + CODE_BYTES:
        raise NetworkError(
            f"the plan has {plan_bytes / 1e6:.1f} MB and placement counts {expected / 1e6:.1f} MB for its weights; "
            f"accepted: within {TOLERANCE:.0%}, and {CODE_BYTES / 1e6:.0f} MB for code"
        )


def placed_weight_bytes(case: CompileCase, small: Architecture) -> int:
    """Return the weight bytes by placement's computation, for the network of a compile case."""
    if case.model == SMALL:
        return _weights(small, case.graph, case.precision)
    cut = replace(
        A14B,
        expert=replace(A14B.expert, layers=A14B_BLOCKS),
        text_encoder=replace(A14B.text_encoder, layers=A14B_LAYERS, vocabulary=A14B_VOCABULARY),
    )
    expected = _weights(cut, case.graph, io_precision(case.precision))
    if PART_OF[case.graph] == "experts":  # placement quantises no block of an expert that has only one
        expected += A14B_BLOCKS * (
            _inner_block(case, case.precision) - _inner_block(case, io_precision(case.precision))
        )
    return expected


def _inner_block(case: CompileCase, precision: str) -> int:
    more, less = (replace(A14B, expert=replace(A14B.expert, layers=count)) for count in (_INNER, _INNER - 1))
    return _weights(more, case.graph, precision) - _weights(less, case.graph, precision)


def _weights(architecture: Architecture, graph: str, precision: str) -> int:
    """Return placement's weight bytes of one plan for one size. The other parts' precisions do not matter."""
    part = PART_OF[graph]
    profile = ServingProfile(
        (_ANY_SIZE,),
        experts=precision if part == "experts" else "bf16",
        text_encoder=precision if part == "text_encoder" else "bf16",
        vae=precision if part == "vae" else "fp32",
    )
    return GpuMemory(architecture, profile, {}).plans[graph].weights
