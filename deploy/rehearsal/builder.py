"""Plan builder without a GPU, with TensorRT-RTX: complete plans, or one block with A14B's widths for large graphs.

Plan memory cannot be measured here, so placement's estimate is recorded as the measurement.
"""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from export.checkpoint.folder import Checkpoint
from export.graphs.precision import PART_OF
from export.placement.gpu_memory import GpuMemory, ServingProfile
from export.to_plan.builder import Attention, BuildSettings, plan_from_onnx
from export.to_plan.network_check import NetworkFacts
from export.to_plan.plan_specs import PlanSpec
from wan_t2v.engines.tensorrt.tensorrt_module import tensorrt_module
from wan_t2v.shapes import VideoShape

logger = logging.getLogger(__name__)
CUT_MODEL = "A14B"  # the name of the cut networks in export/to_plan/compile_modules.py
ATTENTIONS_PER_BLOCK = 2
CUT_PLANS_BYTES = 5e9  # instead of 83 GB


class RehearsalBuilder:
    """PlanBuilder of the rehearsal (`export/to_plan/measured_build.py`).

    Attributes:
        checkpoint: the dummy checkpoint.
        precisions: precision by graph.
        scratch: folder for the cut graphs, emptied after each build.
        cut: graphs that are too large to build here.
        size: any clip size, for the estimate of the text encoder, which does not depend on it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precisions: Mapping[str, str],
        scratch: Path,
        *,
        cut: frozenset[str],
        size: VideoShape,
    ) -> None:
        self.checkpoint = checkpoint
        self.precisions = precisions
        self.scratch = scratch
        self.cut = cut
        self.size = size
        self._trt = tensorrt_module("tensorrt_rtx")

    def build(self, spec: PlanSpec, source: Path, target: Path, settings: BuildSettings) -> NetworkFacts:
        """Build the plan of `source`, or of one block of its graph. Raises BuildError or NetworkError."""
        if spec.graph not in self.cut:
            return plan_from_onnx(self._trt, source, target, spec.shapes, settings, attention=spec.attention)
        from export.to_plan.compile_modules import compile_graph

        precision = self.precisions[spec.graph]
        try:
            block = compile_graph(CUT_MODEL, spec.graph, precision, self.checkpoint, self.scratch / "model.onnx")
            attention = None if spec.attention is None else Attention(ATTENTIONS_PER_BLOCK)
            logger.info("%s: one block of it stands for the plan", spec.graph)
            return plan_from_onnx(self._trt, block, target, spec.shapes, settings, attention=attention)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def disk_bytes(self, estimated: float) -> float:
        """Return the disk space of the cut plans in bytes."""
        return min(estimated, CUT_PLANS_BYTES)

    def device_memory_bytes(self, spec: PlanSpec, plan: Path) -> tuple[int, ...]:
        """Return placement's estimate of a context per profile, in bytes."""
        choice: dict[str, Any] = {PART_OF[spec.graph]: self.precisions[spec.graph]}
        served = ServingProfile((self.size,), **choice)
        return tuple(
            GpuMemory(self.checkpoint.architecture, replace(served, sizes=(size,)), {}).plans[spec.graph].context
            for size in spec.sizes or (self.size,)
        )
