"""Builders that make a plan and measure it: TensorRT's, and the interface that a rehearsal's fulfils."""

import mmap
from pathlib import Path
from typing import Any, Protocol

from export.to_plan.build_log import build_log
from export.to_plan.builder import BuildError, BuildSettings, plan_from_onnx
from export.to_plan.manifest import Toolchain
from export.to_plan.network_check import NetworkFacts
from export.to_plan.plan_specs import PlanSpec
from wan_t2v.engines.tensorrt.tensorrt_module import tensorrt_module


class PlanBuilder(Protocol):
    """Builds one plan, and then says what its execution contexts need."""

    def build(self, spec: PlanSpec, source: Path, target: Path, settings: BuildSettings) -> NetworkFacts:
        """Write the plan of the graph `source` to `target`. Raises BuildError or NetworkError."""

    def disk_bytes(self, estimated: float) -> float:
        """Room that the files need whose whole plans are estimated to take so much."""

    def device_memory_bytes(self, spec: PlanSpec, plan: Path) -> tuple[int, ...] | None:
        """Bytes of a context per profile; None where the plan cannot be loaded here. Raises BuildError."""


class TensorRtBuilder:
    """Mainline TensorRT or TensorRT-RTX, whichever the toolchain names."""

    def __init__(self, tools: Toolchain) -> None:
        self._tools = tools
        self._trt = tensorrt_module(tools.module)

    def build(self, spec: PlanSpec, source: Path, target: Path, settings: BuildSettings) -> NetworkFacts:
        """Build with TensorRT."""
        return plan_from_onnx(self._trt, source, target, spec.shapes, settings, attention=spec.attention)

    def disk_bytes(self, estimated: float) -> float:
        """All of it: the plans are whole."""
        return estimated

    def device_memory_bytes(self, spec: PlanSpec, plan: Path) -> tuple[int, ...] | None:
        """Load the plan once, where it is for the GPU of this machine."""
        return context_bytes(self._trt, plan) if self._runs_here else None

    @property
    def _runs_here(self) -> bool:
        gpu, targets = self._tools.gpu, self._tools.compute_capabilities
        return gpu is not None and (not targets or "current" in targets or gpu.compute_capability in targets)


def context_bytes(trt: Any, plan: Path) -> tuple[int, ...]:
    """Load a plan and ask how much device memory an execution context needs under each profile.

    The plan is read through the page cache: a copy of an expert in this process would be 28 GB more. Raises BuildError.
    """
    with build_log(trt, None) as log, plan.open("rb") as file:
        runtime = trt.Runtime(log)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            reason = "; ".join(log.errors[:3]) or "it gave no reason"
            raise BuildError(
                f"{trt.__name__} built {plan.name} and cannot load it here, so its memory cannot be measured: "
                f"{reason}. Free the GPU's memory of other programs and build again."
            )
        profiles = max(1, engine.num_optimization_profiles)
        return tuple(engine.get_device_memory_size_for_profile_v2(index) for index in range(profiles))
