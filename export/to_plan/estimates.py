"""Estimates of a plan's workspace and disk space, with placement's arithmetic (`export/placement/gpu_memory.py`).

Without a workspace limit, TensorRT picks tactics by timing them on an empty GPU. Such a tactic may not fit beside an
expert when it serves. The limit is placement's estimate of the plan's context plus a quarter.
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
STEP_GIB = 0.25  # limits are rounded up to a multiple, so that small changes of an estimate do not make plans stale
DISK_FACTOR = 1.2  # a wan-mini plan is up to 1.1 times its weights; the old plan is kept until the new one is complete
KERNEL_BYTES = 64_000_000  # upper bound of a plan's kernels and tables


@dataclass(frozen=True)
class PlanEstimates:
    """Estimates for the plans of a set. `precisions` is by graph."""

    architecture: Architecture
    precisions: Mapping[str, str]
    plan_set: PlanSet

    def workspace_gib(self, spec: PlanSpec) -> float:
        """Return the workspace limit of one plan in GiB: the largest of its sizes' estimates counts."""
        contexts = [memory.context for memory in self._by_size(spec)]
        rows = spec.shapes.max_batch if PART_OF[spec.graph] == "experts" else 1  # placement counts TEXT_BATCH itself
        wanted = max(contexts) * rows * OVER_THE_ESTIMATE / GIB
        return math.ceil(wanted / STEP_GIB) * STEP_GIB

    def disk_bytes(self, specs: Iterable[PlanSpec]) -> float:
        """Return the disk space of these plans in bytes."""
        return sum(self._by_size(spec)[0].weights * DISK_FACTOR + KERNEL_BYTES for spec in specs)

    def _by_size(self, spec: PlanSpec) -> list[PlanMemory]:
        """Return placement's estimate per size of the plan. The text encoder's does not depend on the size."""
        choice: dict[str, Any] = {PART_OF[spec.graph]: self.precisions[spec.graph]}
        profiles = [ServingProfile((size,), **choice) for size in spec.sizes or self.plan_set.sizes[:1]]
        return [GpuMemory(self.architecture, profile, {}).plans[spec.graph] for profile in profiles]
