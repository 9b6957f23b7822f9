"""Plans of a deployment, and the shapes of each."""

from dataclasses import dataclass

from export.graphs.axes import axes_of
from export.graphs.precision import PART_OF
from export.to_plan.builder import Attention, PlanShapes
from wan_t2v.facts import ModelFacts
from wan_t2v.shapes import VideoShape

TEXT_BATCH = 8  # prompts in one call of the text encoder
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
