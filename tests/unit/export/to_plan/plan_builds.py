"""Builds of wan-mini's plans for tests, by TensorRT-RTX or by a builder that writes down what it was asked."""

from pathlib import Path
from typing import Any

import pytest

from export.__main__ import main
from export.checkpoint.component_configs import read_architecture
from export.to_plan.build_plans import PlanChoices, build_plans, toolchain
from export.to_plan.builder import BuildSettings
from export.to_plan.network_check import NetworkFacts
from export.to_plan.plan_specs import PlanSet, PlanSpec
from tests.conftest import ROOT
from wan_t2v.manifests import RunningGpu
from wan_t2v.shapes import VideoShape

trt = pytest.importorskip("tensorrt_rtx")


CLIP, WIDE = VideoShape(17, 128, 128), VideoShape(17, 128, 192)


GPU = RunningGpu("NVIDIA L4", "8.9", "580.65.06")


WAN_MINI = read_architecture(ROOT / "training/wan-mini")


def build(graphs: Path, *sizes: VideoShape, **options: Any) -> list[Any]:
    tools = toolchain(trt, options.pop("target", None))
    places = {name: options.pop(name, None) for name in ("builder", "repository")}
    choices = PlanChoices(WAN_MINI, options.pop("workspace_gib", None), vae_tf32=options.pop("vae_tf32", False))
    plan_set = PlanSet(sizes or (CLIP,), **options)
    return build_plans(graphs, graphs / "plans", plan_set, tools, choices, **places)


def refused(capsys: pytest.CaptureFixture[str], graphs: Path, *options: str) -> str:
    """What `python -m export plans` says when it ends with 1; nothing may have been built."""
    assert main(["plans", "--checkpoint", str(ROOT / "training/wan-mini"), "--folder", str(graphs), *options]) == 1
    assert not list(graphs.glob("plans/*/*/model.plan"))
    return capsys.readouterr().err


class Recorded:
    """A builder that writes what it was asked for, and says what it is told of memory."""

    def __init__(self, memory: tuple[int, ...] | None = (7,)) -> None:
        self.memory = memory
        self.settings: dict[str, BuildSettings] = {}

    def build(self, spec: PlanSpec, source: Path, target: Path, settings: BuildSettings) -> NetworkFacts:
        self.settings[spec.graph] = settings
        target.write_bytes(b"plan")
        return NetworkFacts(1, 2, 0, 3)

    def disk_bytes(self, estimated: float) -> float:
        return estimated

    def device_memory_bytes(self, spec: PlanSpec, plan: Path) -> tuple[int, ...] | None:
        assert plan.read_bytes() == b"plan"
        return self.memory
