"""Plans of a deployment, and the shapes of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from export.graphs.axes import axes_of
from export.graphs.precision import NOT_IN_PLANS, PART_OF, attention_is_fp8
from export.placement.gpu_memory import TEXT_BATCH
from export.to_plan.builder import Attention, BuildError, PlanShapes
from wan_t2v.facts import ModelFacts
from wan_t2v.shapes import VideoShape

EXPERT_BATCHES = (1, 2)  # with 2 the server can run both guidance passes in one call


@dataclass(frozen=True)
class PlanSet:
    """Clip sizes to serve, the default size first, and the batch size of an expert call."""

    sizes: tuple[VideoShape, ...]
    expert_batch: int = 1


@dataclass(frozen=True)
class PlanSpec:
    """One plan: `graph` as Triton model version `version`, for these sizes. The text encoder's has none."""

    graph: str
    version: int
    sizes: tuple[VideoShape, ...]
    shapes: PlanShapes
    attention: Attention | None

    def __str__(self) -> str:
        sizes = " + ".join(map(str, self.sizes)) or "any size"
        return f"{self.graph} {sizes}"


def plans_of(plan_set: PlanSet, facts: ModelFacts) -> list[PlanSpec]:
    """List all plans of a deployment.

    An expert is one plan with a profile per size, since its weights are large. The VAE's two graphs are one plan per
    size, in model versions 1, 2, ... in the order of the sizes.
    """
    plans = []
    for graph in PART_OF:
        if graph.startswith("vae_"):
            plans += [
                PlanSpec(graph, version, (size,), PlanShapes((axes_of(graph, size, facts),)), None)
                for version, size in enumerate(plan_set.sizes, start=1)
            ]
        elif graph == "text_encoder":
            shapes = PlanShapes((axes_of(graph, None, facts),), max_batch=TEXT_BATCH, best_batch=2)
            plans.append(PlanSpec(graph, 1, (), shapes, None))
        else:
            profiles = tuple(axes_of(graph, size, facts) for size in plan_set.sizes)
            shapes = PlanShapes(profiles, max_batch=plan_set.expert_batch, best_batch=plan_set.expert_batch)
            plans.append(PlanSpec(graph, 1, plan_set.sizes, shapes, Attention()))
    return plans


def check_plan_set(plan_set: PlanSet, specs: Sequence[PlanSpec], precisions: Mapping[str, str]) -> None:
    """Refuse an expert batch or a precision of which no plan can be built. `precisions` is by graph.

    Raises BuildError.
    """
    if plan_set.expert_batch not in EXPERT_BATCHES:
        raise BuildError(f"expert batch {plan_set.expert_batch}, accepted: {', '.join(map(str, EXPERT_BATCHES))}")
    for spec in specs:
        _check_precision(spec, precisions[spec.graph])


def _check_precision(spec: PlanSpec, precision: str) -> None:
    """Refuse a precision that TensorRT does not build, and FP8 attention in a plan with several sizes."""
    if reason := NOT_IN_PLANS.get((PART_OF[spec.graph], precision)):
        raise BuildError(f"{spec} in {precision}: {reason}. Export with another PRECISION.")
    if len(spec.sizes) > 1 and attention_is_fp8(precision):
        raise BuildError(
            f"{spec} in {precision}: TensorRT computes attention in FP8 as one layer in a plan for "
            "one size only. Name one size, or export with PRECISION=fp8."
        )
