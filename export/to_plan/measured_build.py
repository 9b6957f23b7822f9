"""Plan builders, which build a plan and measure its memory: TensorRT's, and the protocol for a rehearsal's."""

import mmap
from pathlib import Path
from typing import Any, Protocol

from export.to_plan.build_log import build_log
from export.to_plan.builder import BuildError, BuildSettings, plan_from_onnx
from export.to_plan.manifest import Toolchain
from export.to_plan.network_check import NetworkFacts
from export.to_plan.plan_specs import PlanSpec
from wan_t2v.engines.tensorrt.plan_compatibility import runs_portable_plans
from wan_t2v.engines.tensorrt.tensorrt_module import tensorrt_module


class PlanBuilder(Protocol):
    """Builder of a plan that also measures the memory of its execution contexts."""

    def build(self, spec: PlanSpec, source: Path, target: Path, settings: BuildSettings) -> NetworkFacts:
        """Write the plan of the graph `source` to `target`. Raises BuildError or NetworkError."""

    def disk_bytes(self, estimated: float) -> float:
        """Return the disk space of this builder's files, for complete plans of `estimated` bytes."""

    def device_memory_bytes(self, spec: PlanSpec, plan: Path) -> tuple[int, ...] | None:
        """Return the bytes of a context per profile. None if the plan is for another GPU. Raises BuildError."""


class TensorRtBuilder:
    """Builder with mainline TensorRT or TensorRT-RTX, as the toolchain names it."""

    def __init__(self, tools: Toolchain) -> None:
        self._tools = tools
        self._trt = tensorrt_module(tools.module)

    def build(self, spec: PlanSpec, source: Path, target: Path, settings: BuildSettings) -> NetworkFacts:
        """Build with TensorRT. Raises BuildError or NetworkError."""
        return plan_from_onnx(self._trt, source, target, spec.shapes, settings, attention=spec.attention)

    def disk_bytes(self, estimated: float) -> float:
        """Return `estimated`, since the plans are complete."""
        return estimated

    def device_memory_bytes(self, spec: PlanSpec, plan: Path) -> tuple[int, ...] | None:
        """Load the plan once, if it is for this machine's GPU, and measure its contexts. Raises BuildError."""
        return context_bytes(self._trt, plan) if self._runs_here else None

    @property
    def _runs_here(self) -> bool:
        gpu, targets = self._tools.gpu, self._tools.compute_capabilities
        if gpu is None:
            return False
        if not targets:
            return runs_portable_plans(gpu.compute_capability)
        return "current" in targets or gpu.compute_capability in targets


def context_bytes(trt: Any, plan: Path) -> tuple[int, ...]:
    """Load a plan and return the device memory of an execution context per profile, in bytes.

    The plan is memory-mapped, since a copy of an expert would take 28 GB more. Raises BuildError.
    """
    with build_log(trt, None) as log, plan.open("rb") as file:
        runtime = trt.Runtime(log)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            reason = "; ".join(log.errors[:3]) or "it gave no reason"
            raise BuildError(
                f"{trt.__name__} built {plan.name} and cannot load it here, so its memory cannot be measured: "
                f"{reason}. If it is memory: free the GPU's of other programs and build again."
            )
        profiles = max(1, engine.num_optimization_profiles)
        return tuple(engine.get_device_memory_size_for_profile_v2(index) for index in range(profiles))
