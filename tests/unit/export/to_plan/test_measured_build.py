import shutil
from pathlib import Path

import pytest

from export.graphs.registry import GRAPHS
from export.placement.gpu_memory import ServingProfile, SettingsError
from export.placement.measured_plans import measured_contexts
from export.to_plan import measured_build
from export.to_plan.builder import BuildError
from export.to_plan.manifest import Toolchain
from export.to_plan.measured_build import context_bytes
from export.to_plan.plan_specs import PlanSet, plans_of
from tests.conftest import ROOT
from tests.fakes import fake_tensorrt
from tests.fakes.manifests import H100
from tests.unit.export.to_plan.plan_builds import CLIP, GPU, Recorded, build, trt
from wan_t2v.facts import ModelFacts
from wan_t2v.manifests import PlanManifest, RunningGpu, read_manifest

pytestmark = pytest.mark.usefixtures("no_gpu")


def test_the_memory_that_was_measured_is_in_the_manifest_and_placement_reads_it(graphs: Path) -> None:
    build(graphs, builder=Recorded((7,)))
    manifest = read_manifest(PlanManifest, graphs / "plans/high_noise_expert/1/plan.json")
    assert manifest.device_memory_bytes == (7,)
    served = ServingProfile((CLIP,), experts="fp32", text_encoder="fp32", vae="fp32")
    assert measured_contexts(graphs / "plans", served) == dict.fromkeys(GRAPHS, 7)
    shutil.rmtree(graphs / "plans")
    build(graphs, builder=Recorded(None))
    with pytest.raises(SettingsError, match="plan.json does not tell how much memory the plan needs"):
        measured_contexts(graphs / "plans", served)


def test_a_plan_is_loaded_once_and_measured_under_each_profile(tmp_path: Path) -> None:
    axes = {"x": [[1, 4], [1, 4], [1, 4]]}
    plan = fake_tensorrt.plan(tmp_path / "model.plan", {"x": ("FLOAT", [-1, 4])}, [axes, axes])
    assert context_bytes(fake_tensorrt, plan) == (1024, 1023)
    assert hasattr(trt.ICudaEngine, "get_device_memory_size_for_profile_v2"), "TensorRT's own has it too"
    static = fake_tensorrt.plan(tmp_path / "static.plan", {"x": ("FLOAT", [1, 4])})
    assert context_bytes(fake_tensorrt, static) == (1024,)


def test_a_plan_that_cannot_be_loaded_where_it_was_built_is_refused(graphs: Path, text_encoder_only: None) -> None:
    """TensorRT-RTX's own refusal, on a machine without a driver."""
    build(graphs)
    plan = graphs / "plans/text_encoder/1/model.plan"
    with pytest.raises(BuildError, match=r"built model.plan and cannot load it here.*[Cc]uda"):
        context_bytes(trt, plan)


@pytest.mark.parametrize(
    ("gpu", "target", "measured"),
    [
        (None, (), False),
        (GPU, (), True),
        (GPU, ("current",), True),
        (GPU, ("8.6", "8.9"), True),
        (GPU, ("8.6",), False),
        (H100, (), False),
        (H100, ("current",), True),
    ],
)
def test_plans_are_measured_where_they_run(
    gpu: RunningGpu | None, target: tuple[str, ...], measured: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measured_build, "tensorrt_module", lambda name: fake_tensorrt)
    plan = fake_tensorrt.plan(tmp_path / "model.plan", {"x": ("FLOAT", [1, 4])})
    builder = measured_build.TensorRtBuilder(Toolchain("tensorrt", "1", gpu, target))
    spec = plans_of(PlanSet((CLIP,)), ModelFacts.read(ROOT / "build/training-wan-mini"))[0]
    assert builder.device_memory_bytes(spec, plan) == ((1024,) if measured else None)
