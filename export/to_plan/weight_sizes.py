"""Weight sizes by placement, compared with the plan's own size for each row of the compile gate."""

from dataclasses import replace

from export.checkpoint.architecture import A14B, Architecture
from export.graphs.precision import PART_OF, io_precision
from export.placement.gpu_memory import MIB, GpuMemory, ServingProfile
from export.to_plan.compile_cases import A14B_BLOCKS, A14B_LAYERS, A14B_VOCABULARY, SMALL, CompileCase
from export.to_plan.network_check import NetworkError
from wan_t2v.shapes import VideoShape

TOLERANCE = 0.1
CODE_BYTES = 12 * MIB  # kernels and names in a plan: nothing beside A14B's weights, as much as wan-mini's
_ANY_SIZE = VideoShape(17, 128, 128)
_INNER = 13  # blocks of an expert that is large enough to keep three outer blocks at each end out of FP8


def check_plan_bytes(case: CompileCase, small: Architecture, plan_bytes: int) -> None:
    """Refuse a plan of another size than placement counts with; `small` is the small model's. Raises NetworkError."""
    expected = placed_weight_bytes(case, small)
    if not expected * (1 - TOLERANCE) <= plan_bytes <= expected * (1 + TOLERANCE) + CODE_BYTES:
        raise NetworkError(
            f"the plan has {plan_bytes / 1e6:.1f} MB and placement counts {expected / 1e6:.1f} MB for its weights; "
            f"accepted: within {TOLERANCE:.0%}, and {CODE_BYTES / 1e6:.0f} MB for code"
        )


def placed_weight_bytes(case: CompileCase, small: Architecture) -> int:
    """Bytes of weights by placement's own computation, for the network as the row compiles it."""
    if case.model == SMALL:
        return _weights(small, case.graph, case.precision)
    cut = replace(
        A14B,
        expert=replace(A14B.expert, layers=A14B_BLOCKS),
        text_encoder=replace(A14B.text_encoder, layers=A14B_LAYERS, vocabulary=A14B_VOCABULARY),
    )
    expected = _weights(cut, case.graph, io_precision(case.precision))
    if PART_OF[case.graph] == "experts":  # of an expert of one block placement would put none in FP8
        expected += A14B_BLOCKS * (
            _inner_block(case, case.precision) - _inner_block(case, io_precision(case.precision))
        )
    return expected


def _inner_block(case: CompileCase, precision: str) -> int:
    more, less = (replace(A14B, expert=replace(A14B.expert, layers=count)) for count in (_INNER, _INNER - 1))
    return _weights(more, case.graph, precision) - _weights(less, case.graph, precision)


def _weights(architecture: Architecture, graph: str, precision: str) -> int:
    """Of one plan for one size; the precision of the other parts does not matter."""
    part = PART_OF[graph]
    profile = ServingProfile(
        (_ANY_SIZE,),
        experts=precision if part == "experts" else "bf16",
        text_encoder=precision if part == "text_encoder" else "bf16",
        vae=precision if part == "vae" else "fp32",
    )
    return GpuMemory(architecture, profile, {}).plans[graph].weights
