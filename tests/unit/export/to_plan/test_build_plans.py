import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from export import disk_space
from export.__main__ import main, parser
from export.checkpoint.architecture import A14B
from export.checkpoint.component_configs import read_architecture
from export.commands.plans import build_and_install_plans
from export.file_hash import sha256
from export.graphs.precision import FOR_LARGE_WEIGHTS
from export.graphs.registry import GRAPHS
from export.placement.gpu_memory import GIB, GpuMemory, ServingProfile, SettingsError
from export.placement.measured_plans import measured_contexts
from export.to_plan import measured_build
from export.to_plan.build_plans import PlanChoices, _check_fp8_attention, build_plans, install_plans, toolchain
from export.to_plan.builder import BuildError, BuildSettings, PlanShapes
from export.to_plan.estimates import PlanEstimates
from export.to_plan.manifest import Toolchain
from export.to_plan.measured_build import context_bytes
from export.to_plan.network_check import NetworkFacts
from export.to_plan.plan_specs import PlanSet, PlanSpec, plans_of
from tests.conftest import ROOT
from tests.fakes import fake_tensorrt
from wan_t2v.engines.plan_compatibility import PlanMismatch, Running, check_plan
from wan_t2v.facts import DEFAULTS_FILE, ModelFacts, ServingDefaults
from wan_t2v.manifests import GraphManifest, PlanManifest, RunningGpu, TensorRtVersion, read_manifest, to_json
from wan_t2v.serving.model_files import check_model_files
from wan_t2v.shapes import VideoShape

trt = pytest.importorskip("tensorrt_rtx")
CLIP, WIDE = VideoShape(17, 128, 128), VideoShape(17, 128, 192)
GPU = RunningGpu("NVIDIA L4", "8.9", "580.65.06")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers on machines that have one."""
    monkeypatch.setattr("export.to_plan.build_plans.running_gpu", lambda: None)


@pytest.fixture
def graphs(exported: Path, tmp_path: Path) -> Path:
    """wan-mini's exported graphs, to change."""
    return Path(shutil.copytree(exported, tmp_path / "graphs", ignore=shutil.ignore_patterns("plans")))


@pytest.fixture
def text_encoder_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan that builds fastest stands for all."""
    monkeypatch.setattr(
        "export.to_plan.build_plans.plans_of", lambda *args: [s for s in plans_of(*args) if s.graph == "text_encoder"]
    )


WAN_MINI = read_architecture(ROOT / "training/wan-mini")


def built(graphs: Path, *sizes: VideoShape, **options: Any) -> list[Any]:
    tools = toolchain(trt, options.pop("target", None))
    builder = options.pop("builder", None)
    choices = PlanChoices(WAN_MINI, options.pop("workspace_gib", None), vae_tf32=options.pop("vae_tf32", False))
    plan_set = PlanSet(sizes or (CLIP,), **options)
    return build_plans(graphs, graphs / "plans", plan_set, tools, choices, builder=builder)


def refused(capsys: pytest.CaptureFixture[str], graphs: Path, *options: str) -> str:
    """What `python -m export plans` says when it ends with 1; nothing may have been built."""
    assert main(["plans", "--checkpoint", str(ROOT / "training/wan-mini"), "--folder", str(graphs), *options]) == 1
    assert not list(graphs.glob("plans/*/*/model.plan"))
    return capsys.readouterr().err


def test_a_deployment_is_one_plan_an_expert_and_a_version_of_the_vae_a_size(exported: Path) -> None:
    facts = ModelFacts.read(exported)
    found = {(spec.graph, spec.version): spec for spec in plans_of(PlanSet((CLIP, WIDE), 2), facts)}
    assert set(found) == {
        ("text_encoder", 1),
        ("high_noise_expert", 1),
        ("low_noise_expert", 1),
        *((graph, version) for graph in ("vae_decoder_first", "vae_decoder_next") for version in (1, 2)),
    }
    expert = found["high_noise_expert", 1].shapes
    assert [profile["latent_width"] for profile in expert.profiles] == [16, 24] and expert.max_batch == 2
    assert expert.fixed == {"latent_frames": 5, "latent_height": 16, "text_length": facts.text_length}
    vae = found["vae_decoder_next", 2].shapes
    assert vae.profiles == ({"latent_frames": 1, "latent_height": 16, "latent_width": 24},) == (vae.fixed,)
    encoder = found["text_encoder", 1].shapes
    assert (encoder.max_batch, encoder.fixed) == (8, {"text_length": facts.text_length})


def test_every_plan_of_wan_mini_is_built_on_a_cpu_and_installed(graphs: Path, tmp_path: Path) -> None:
    specs = built(graphs, CLIP)
    repository = tmp_path / "repository"
    install_plans(specs, graphs, graphs / "plans", repository)
    for spec in specs:
        home = repository / spec.graph / "1"
        manifest = read_manifest(PlanManifest, home / "plan.json")
        assert manifest.plan_sha256 == sha256(home / "model.plan")
        assert (home / "manifest.json").read_bytes() == (graphs / spec.graph / "manifest.json").read_bytes()
        assert (graphs / f"plans/logs/{spec.graph}-1.log").stat().st_size
        graph = read_manifest(GraphManifest, graphs / spec.graph / "manifest.json")
        for key in ("onnx_sha256", "checkpoint_sha256", "checkpoint_sampled", "precision"):
            assert getattr(manifest, key) == getattr(graph, key), key
        assert manifest.tensorrt == TensorRtVersion("tensorrt_rtx", trt.__version__)
        assert (manifest.gpu, manifest.target, manifest.device_memory_bytes) == (None, "portable", None)
        assert manifest.workspace_gib == 0.25 and not manifest.tf32
    assert not list((graphs / "plans").rglob("*.partial")) and not list((graphs / "plans").rglob("*.old"))


def default_clip(defaults: ServingDefaults) -> VideoShape:
    return VideoShape(defaults.num_frames, defaults.height, defaults.width)


def test_the_first_size_is_the_default_of_the_repository(graphs: Path, tmp_path: Path) -> None:
    """`prepare` does not load with a default that is not served, nor with a file that its manifest does not name."""
    repository = tmp_path / "repository"
    places = ["--checkpoint", str(ROOT / "training/wan-mini"), "--folder", str(graphs), "--repository", str(repository)]
    own = ServingDefaults.read(graphs)
    for sizes, expected in ((["--sizes", "128x192x17,128x128x17"], WIDE), ([], default_clip(own))):
        build_and_install_plans(parser().parse_args(["plans", *places, *sizes]), graphs, builder=Recorded())
        assert default_clip(ServingDefaults.read(repository / "prepare/1")) == expected
        check_model_files(repository / "prepare/1", (DEFAULTS_FILE,), graphs=("text_encoder",))
    installed = (repository / "prepare/1" / DEFAULTS_FILE).read_bytes()
    assert installed == (graphs / DEFAULTS_FILE).read_bytes(), "the checkpoint's own default keeps its source"


def test_a_plan_is_kept_until_something_changes(graphs: Path, text_encoder_only: None) -> None:
    plan = graphs / "plans/text_encoder/1/model.plan"
    built(graphs)
    first = plan.stat().st_mtime_ns
    built(graphs, CLIP, WIDE)
    assert plan.stat().st_mtime_ns == first, "the text encoder does not depend on sizes"
    built(graphs, workspace_gib=1.0)
    second = plan.stat().st_mtime_ns
    assert second > first
    manifest = json.loads((graphs / "text_encoder/manifest.json").read_text())
    (graphs / "text_encoder/manifest.json").write_text(json.dumps({**manifest, "checkpoint_sha256": "another"}))
    built(graphs, workspace_gib=1.0)
    third = plan.stat().st_mtime_ns
    assert third > second
    plan.write_bytes(plan.read_bytes()[:100])
    built(graphs, workspace_gib=1.0)
    assert plan.stat().st_size > 100, "half a plan is no plan"


def test_a_new_plan_is_refused_where_it_does_not_fit(graphs: Path, text_encoder_only: None) -> None:
    built(graphs, target="8.6")
    manifest = read_manifest(PlanManifest, graphs / "plans/text_encoder/1/plan.json")
    check_plan(manifest, Running("tensorrt_rtx", trt.__version__, RunningGpu("A10", "8.6", "580")))
    with pytest.raises(PlanMismatch, match="for compute capability 8.6, here is NVIDIA L4.*SIZES=128x128x17"):
        check_plan(manifest, Running("tensorrt_rtx", trt.__version__, GPU))


def test_a_failed_build_leaves_the_old_plan_and_the_log(graphs: Path, text_encoder_only: None) -> None:
    built(graphs)
    before = sha256(graphs / "plans/text_encoder/1/model.plan")
    with pytest.raises(BuildError, match=r"workspace limit.*all that it said: .*logs/text_encoder-1.log"):
        built(graphs, workspace_gib=1e-6)
    assert sha256(graphs / "plans/text_encoder/1/model.plan") == before
    assert "workspace limit" in (graphs / "plans/logs/text_encoder-1.log").read_text()


def test_an_unknown_size_is_refused(graphs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "multiples of 16 pixels" in refused(capsys, graphs, "--sizes", "100x128x17")
    assert "expert batch 3, accepted: 1, 2" in refused(capsys, graphs, "--expert-batch", "3")


def test_a_graph_that_changed_or_is_missing_is_refused(graphs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = graphs / "vae_decoder_next/model.onnx"
    with path.open("ab") as file:
        file.write(b"\0")
    assert f"{path} changed since its manifest was written. Run `make export`" in refused(capsys, graphs)
    path.unlink()
    assert f"{path} is missing. Run `make export" in refused(capsys, graphs)
    (graphs / "model_facts.json").unlink()
    assert "model_facts.json is missing. Run `make export`" in refused(capsys, graphs)


def test_a_full_disk_is_told_before_the_first_build(
    graphs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    told = refused(capsys, graphs)
    assert f"0.4 GB of disk are needed and 0.0 GB are free (5 plans in {graphs}/plans: 0.4 GB)" in told


def test_this_machines_gpu_cannot_be_meant_where_there_is_none(
    graphs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, graphs, "--compute-capability", "current")
    assert "no GPU is seen here; accepted: portable, or such as 8.9" in message


def test_what_plans_are_for_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert toolchain(trt, None).target == "portable"
    assert toolchain(trt, "8.6, 8.9").target == ("8.6", "8.9")
    fake = ModuleType("tensorrt")
    fake.__version__ = "11.4"  # type: ignore[attr-defined]
    with pytest.raises(BuildError, match=r"mainline TensorRT \(11.4\) builds for the GPU .* there is none here"):
        toolchain(fake, None)
    monkeypatch.setattr("export.to_plan.build_plans.running_gpu", lambda: GPU)
    assert toolchain(fake, None).target == ("current",) == toolchain(trt, None).target
    with pytest.raises(BuildError, match="not for '8.9'"):
        toolchain(fake, "8.9")


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


def test_the_memory_that_was_measured_is_in_the_manifest_and_placement_reads_it(graphs: Path) -> None:
    built(graphs, builder=Recorded((7,)))
    manifest = read_manifest(PlanManifest, graphs / "plans/high_noise_expert/1/plan.json")
    assert manifest.device_memory_bytes == (7,)
    served = ServingProfile((CLIP,), experts="fp32", text_encoder="fp32", vae="fp32")
    assert measured_contexts(graphs / "plans", served) == dict.fromkeys(GRAPHS, 7)
    shutil.rmtree(graphs / "plans")
    built(graphs, builder=Recorded(None))
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
    built(graphs)
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


def test_each_plan_has_a_limit_of_workspace_and_no_tf32(graphs: Path) -> None:
    recorded = Recorded()
    built(graphs, builder=recorded)
    assert {graph: settings.workspace_gib for graph, settings in recorded.settings.items()} == dict.fromkeys(
        GRAPHS, 0.25
    )
    assert not any(settings.tf32 for settings in recorded.settings.values())
    built(graphs, builder=recorded, workspace_gib=3.0, vae_tf32=True)
    assert {settings.workspace_gib for settings in recorded.settings.values()} == {3.0}
    assert [graph for graph, settings in recorded.settings.items() if settings.tf32] == [
        "vae_decoder_first",
        "vae_decoder_next",
    ]
    manifest = read_manifest(PlanManifest, graphs / "plans/vae_decoder_next/1/plan.json")
    assert (manifest.workspace_gib, manifest.tf32) == (3.0, True)


def test_the_limits_of_a14b_are_placements_estimates_and_a_quarter(exported: Path) -> None:
    facts = replace(ModelFacts.read(exported), text_dim=4096)
    small, large = VideoShape(81, 480, 832), VideoShape(81, 720, 1280)
    precisions = {graph: FOR_LARGE_WEIGHTS.of(graph) for graph in GRAPHS}
    for sizes, rows in (((small,), 1), ((small, large), 1), ((small,), 2)):
        plan_set = PlanSet(sizes, rows)
        estimates = PlanEstimates(A14B, precisions, plan_set)
        expert = next(s for s in plans_of(plan_set, facts) if s.graph == "high_noise_expert")
        context = GpuMemory(A14B, ServingProfile(sizes[-1:]), {}).plans["high_noise_expert"].context
        assert 0 <= estimates.workspace_gib(expert) - 1.25 * rows * context / GIB < 0.25
    vae = [s for s in plans_of(PlanSet((small, large)), facts) if s.graph == "vae_decoder_next"]
    limits = [PlanEstimates(A14B, precisions, PlanSet((small, large))).workspace_gib(spec) for spec in vae]
    assert limits[0] < limits[1], "each of the VAE's plans is for one size"


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(graphs: Path, capsys: pytest.CaptureFixture[str], limit: str) -> None:
    assert "accepted: a number above 0" in refused(capsys, graphs, "--workspace-gib", limit)


def test_a_manifest_of_before_is_refused_with_the_remedy(graphs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = graphs / "text_encoder/manifest.json"
    raw = json.loads(path.read_text())
    raw["checkpoint_sample_sha256"] = raw.pop("checkpoint_sha256")
    path.write_text(json.dumps(raw))
    assert "checkpoint_sha256 is missing. Run `make export` again" in refused(capsys, graphs)


def test_plans_of_a_large_checkpoint_have_its_sampled_hash(graphs: Path) -> None:
    """What once ended in a KeyError after the whole export of A14B."""
    for graph in GRAPHS:
        path = graphs / graph / "manifest.json"
        path.write_text(to_json(replace(read_manifest(GraphManifest, path), checkpoint_sampled=True)))
    built(graphs, builder=Recorded())
    manifest = read_manifest(PlanManifest, graphs / "plans/low_noise_expert/1/plan.json")
    graph_hash = read_manifest(GraphManifest, graphs / "low_noise_expert/manifest.json").checkpoint_sha256
    assert (manifest.checkpoint_sha256, manifest.checkpoint_sampled) == (graph_hash, True)


def test_attention_in_fp8_is_for_one_size(tmp_path: Path) -> None:
    """With two sizes TensorRT takes it apart, which would be slower than BF16 and nobody would notice."""
    one, two = VideoShape(81, 480, 832), VideoShape(81, 720, 1280)
    specs = [PlanSpec("high_noise_expert", 1, sizes, PlanShapes(()), None) for sizes in ((one,), (one, two))]
    _check_fp8_attention(specs, {"high_noise_expert": "fp8"})
    _check_fp8_attention(specs[:1], {"high_noise_expert": "fp8-attention"})
    with pytest.raises(BuildError, match="in a plan for one size only. Name one size, or export with PRECISION=fp8"):
        _check_fp8_attention(specs, {"high_noise_expert": "fp8-attention"})
