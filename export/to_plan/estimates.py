"""Estimates of what a plan will need, by placement's arithmetic (`export/placement/gpu_memory.py`).

A limit of workspace: without one, TensorRT chooses a tactic by timing it on an empty GPU, and it may not fit beside an
expert when it serves. The limit is placement's estimate of the plan's context and a quarter.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from export.checkpoint.architecture import Architecture
from export.graphs.precision import PART_OF
from export.placement.gpu_memory import GpuMemory, PlanMemory, ServingProfile
from export.to_plan.plan_specs import PlanSet, PlanSpec

GIB = 2**30
OVER_THE_ESTIMATE = 1.25
STEP_GIB = 0.25  # limits are rounded up to a multiple, so that a slightly other estimate does not make plans stale
DISK_FACTOR = 1.2  # a plan of wan-mini is up to 1.1 times its weights; the old plan stays until the new one is whole
KERNEL_BYTES = 64_000_000  # code and tables of a plan, generously


@dataclass(frozen=True)
class PlanEstimates:
    """Estimates for the plans of a set; `precisions` has that of each graph."""

    architecture: Architecture
    precisions: Mapping[str, str]
    plan_set: PlanSet

    def workspace_gib(self, spec: PlanSpec) -> float:
        """The limit for one plan. Of several sizes the largest estimate counts."""
        contexts = [memory.context for memory in self._by_size(spec)]
        rows = spec.shapes.max_batch if PART_OF[spec.graph] == "experts" else 1  # placement counts all prompts itself
        wanted = max(contexts) * rows * OVER_THE_ESTIMATE / GIB
        return math.ceil(wanted / STEP_GIB) * STEP_GIB

    def disk_bytes(self, specs: Iterable[PlanSpec]) -> float:
        """Room that the files of these plans need."""
        return sum(self._by_size(spec)[0].weights * DISK_FACTOR + KERNEL_BYTES for spec in specs)

    def _by_size(self, spec: PlanSpec) -> list[PlanMemory]:
        """Placement's figures for each size of the plan alone; the text encoder's are the same for any."""
        choice: dict[str, Any] = {PART_OF[spec.graph]: self.precisions[spec.graph]}
        profiles = [ServingProfile((size,), **choice) for size in spec.sizes or self.plan_set.sizes[:1]]
        return [GpuMemory(self.architecture, profile, {}).plans[spec.graph] for profile in profiles]
