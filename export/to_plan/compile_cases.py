"""Compile cases of `make compile-check`: one plan per case, of a graph in a precision for some sizes.

The graphs of the small checkpoint are complete. A14B's have its true widths, but only one of 40 expert blocks, one of
24 text encoder layers, and a vocabulary of 1,024. `docs/build/plans.md` has the same list.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from export.checkpoint import architecture
from export.graphs.precision import FP8_IO_PRECISION, PART_OF, attention_is_fp8, blocks_in_eight_bits
from wan_t2v.contract import EXPERTS, VAE_DECODERS
from wan_t2v.facts import ModelFacts
from wan_t2v.shapes import VideoShape

SMALL, A14B = "wan-mini", "A14B"
A14B_BLOCKS = 1  # of an expert's forty
A14B_LAYERS = 1  # of the text encoder's twenty-four
A14B_VOCABULARY = 1024

_CLIP = VideoShape(17, 128, 128)
_OTHER_CLIP = VideoShape(17, 128, 192)
_480P = VideoShape(81, 480, 832)
_720P = VideoShape(81, 720, 1280)
_SELF_AND_CROSS = 2


@dataclass(frozen=True)
class CompileCase:
    """One plan to compile. Each size is an optimisation profile; a text encoder has no sizes.

    `attention_per_block` counts TensorRT's attention layers. It is 0 for UMT5, which adds a position bias, and for the
    VAE, whose attention is written as matrix products.
    """

    model: str
    graph: str
    precision: str
    sizes: tuple[VideoShape, ...] = ()
    attention_per_block: int = 0

    def __str__(self) -> str:
        sizes = " + ".join(map(str, self.sizes))
        return f"{self.model} {self.graph} {self.precision}{' ' if sizes else ''}{sizes}"


def compile_facts(model: str, small: ModelFacts) -> ModelFacts:
    """Return the small checkpoint's facts, for A14B with A14B's text sizes. Both models have the same latent grid."""
    if model == SMALL:
        return small
    large = architecture.A14B
    return replace(small, text_length=large.text_length, text_dim=large.expert.text_dim)


def quantised_blocks(model: str, precision: str, count: int) -> range:
    """Return the blocks in FP8 or INT8: those of a real export for the small expert, A14B's only block otherwise."""
    return blocks_in_eight_bits(precision, count) if model == SMALL else range(count)


def _experts() -> list[CompileCase]:
    small = [
        CompileCase(SMALL, graph, precision, (_CLIP,), _SELF_AND_CROSS)
        for graph in EXPERTS
        for precision in ("fp32", "bf16", "fp16", *FP8_IO_PRECISION, "int8-bf16")
    ]
    two_profiles = CompileCase(SMALL, EXPERTS[0], "bf16", (_CLIP, _OTHER_CLIP), _SELF_AND_CROSS)
    large = [
        CompileCase(A14B, EXPERTS[0], precision, sizes, _SELF_AND_CROSS)
        for precision in ("bf16", "fp16", "fp8", "fp8-attention", "int8-bf16")
        for sizes in ((_480P,), (_720P,), (_480P, _720P))
        if len(sizes) == 1 or not attention_is_fp8(precision)  # TensorRT fuses it for one size only
    ]
    return [*small, two_profiles, *large]


def _text_encoders() -> list[CompileCase]:
    return [CompileCase(model, "text_encoder", precision) for model in (SMALL, A14B) for precision in ("fp32", "bf16")]


def _vae_decoders() -> list[CompileCase]:
    return [
        CompileCase(model, graph, precision, (size,))
        for model, sizes in ((SMALL, (_CLIP,)), (A14B, (_480P, _720P)))
        for graph in VAE_DECODERS
        for precision in ("fp32", "bf16", "fp16")
        for size in sizes
    ]


COMPILE_TABLE: tuple[CompileCase, ...] = (*_experts(), *_text_encoders(), *_vae_decoders())


def smallest_cover(cases: Sequence[CompileCase]) -> list[CompileCase]:
    """Choose few cases that cover each graph, and each part's precisions and A14B sizes.

    Greedy: each choice is the case that covers most of what is missing. A14B's cases win ties, since the gate checks
    each of their layers.
    """
    missing = set().union(*map(_covered_by, cases))
    cover: list[CompileCase] = []
    while missing:
        best = max(cases, key=lambda case: (len(missing & _covered_by(case)), case.model == A14B))
        cover.append(best)
        missing -= _covered_by(best)
    return cover


def _covered_by(case: CompileCase) -> set[tuple[str, str]]:
    part = PART_OF[case.graph]
    sizes = case.sizes if case.model == A14B else ()
    return {("graph", case.graph), (part, case.precision), *((part, str(size)) for size in sizes)}
