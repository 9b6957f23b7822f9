import json
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from export import disk_space
from export.__main__ import parser
from export.commands.plans import build_and_install_plans
from export.disk_space import DiskNeed
from export.graphs.registry import GRAPHS
from export.to_onnx.install import READ_BY, install_model_files
from export.to_plan import build_plans
from export.to_plan.build_plans import install_plans, toolchain
from export.to_plan.builder import BuildError
from tests.conftest import ROOT
from tests.fakes.manifests import H100
from tests.unit.export.to_plan.plan_builds import CLIP, GPU, WIDE, Recorded, build, refused, trt
from wan_t2v.engines.tensorrt.plan_compatibility import PlanMismatch, Running, check_plan
from wan_t2v.facts import DEFAULTS_FILE, ServingDefaults
from wan_t2v.installed_files import FilesManifest, sha256_of_file
from wan_t2v.manifests import GraphManifest, PlanManifest, PlannedDeployment, RunningGpu, TensorRtVersion, read_manifest
from wan_t2v.serving.model_files import check_model_files
from wan_t2v.shapes import VideoShape

pytestmark = pytest.mark.usefixtures("no_gpu")


def test_every_plan_of_wan_mini_is_built_on_a_cpu_and_installed(graphs: Path, tmp_path: Path) -> None:
    specs = build(graphs, CLIP)
    repository = tmp_path / "repository"
    install_plans(specs, graphs, graphs / "plans", repository)
    for spec in specs:
        home = repository / spec.graph / "1"
        manifest = read_manifest(PlanManifest, home / "plan.json")
        assert manifest.plan_sha256 == sha256_of_file(home / "model.plan")
        assert (home / "manifest.json").read_bytes() == (graphs / spec.graph / "manifest.json").read_bytes()
        assert (graphs / f"plans/logs/{spec.graph}-1.log").stat().st_size
        graph = read_manifest(GraphManifest, graphs / spec.graph / "manifest.json")
        for key in ("onnx_sha256", "checkpoint_sha256", "checkpoint_sampled", "precision"):
            assert getattr(manifest, key) == getattr(graph, key), key
        assert manifest.tensorrt == TensorRtVersion("tensorrt_rtx", trt.__version__)
        assert (manifest.gpu, manifest.target, manifest.device_memory_bytes) == (None, "portable", None)
        assert manifest.workspace_gib == 0.25 and not manifest.tf32
    assert not list((graphs / "plans").rglob("*.partial")) and not list((graphs / "plans").rglob("*.old"))


def test_each_plan_has_what_its_run_was_given_so_that_any_names_the_command_that_builds_them_all(graphs: Path) -> None:
    specs = build(graphs, CLIP, builder=Recorded(), workspace_gib=3.0, vae_tf32=True)
    expected = PlannedDeployment(
        (str(CLIP),), 1, dict.fromkeys(GRAPHS, "fp32"), workspace_gib=3.0, vae_tf32=True, bf16_shards=False
    )
    for spec in specs:
        assert read_manifest(PlanManifest, graphs / f"plans/{spec.graph}/1/plan.json").deployment == expected


def test_plans_that_are_installed_by_half_are_refused_by_every_model(
    graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be of the weights of the plans before them, in another precision."""
    repository = tmp_path / "repository"
    places = ["--checkpoint", str(ROOT / "training/wan-mini"), "--folder", str(graphs), "--repository", str(repository)]
    install_model_files(graphs, repository)
    options = parser().parse_args(["plans", *places])
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr("export.to_plan.build_plans.install_plans", _stop)
        build_and_install_plans(options, graphs, builder=Recorded())
    assert {FilesManifest.read(repository / model / "1").graphs == {} for model in READ_BY} == {True}
    build_and_install_plans(options, graphs, builder=Recorded())
    for _ in range(2):  # the second time nothing differs, so nothing is taken out of service
        assert all(FilesManifest.read(repository / model / "1").graphs for model in READ_BY)
        with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
            stopped.setattr("export.to_plan.build_plans.install_plans", _stop)
            build_and_install_plans(options, graphs, builder=Recorded())


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


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
    build(graphs)
    first = plan.stat().st_mtime_ns
    build(graphs, CLIP, WIDE)
    assert plan.stat().st_mtime_ns == first, "the text encoder does not depend on sizes"
    build(graphs, workspace_gib=1.0)
    second = plan.stat().st_mtime_ns
    assert second > first
    manifest = json.loads((graphs / "text_encoder/manifest.json").read_text())
    (graphs / "text_encoder/manifest.json").write_text(json.dumps({**manifest, "checkpoint_sha256": "another"}))
    build(graphs, workspace_gib=1.0)
    third = plan.stat().st_mtime_ns
    assert third > second
    plan.write_bytes(plan.read_bytes()[:100])
    build(graphs, workspace_gib=1.0)
    assert plan.stat().st_size > 100, "half a plan is no plan"
    whole = plan.read_bytes()
    plan.write_bytes(bytes(reversed(whole)))
    build(graphs, workspace_gib=1.0)
    assert plan.read_bytes() != bytes(reversed(whole)), "nor is one with other bytes"


def test_a_new_plan_is_refused_where_it_does_not_fit(graphs: Path, text_encoder_only: None) -> None:
    build(graphs, target="8.6")
    manifest = read_manifest(PlanManifest, graphs / "plans/text_encoder/1/plan.json")
    check_plan(manifest, Running("tensorrt_rtx", trt.__version__, RunningGpu("A10", "8.6", "580")))
    with pytest.raises(PlanMismatch, match="for compute capability 8.6, here is NVIDIA L4.*SIZES=128x128x17"):
        check_plan(manifest, Running("tensorrt_rtx", trt.__version__, GPU))


def test_a_failed_build_leaves_the_old_plan_and_the_log(graphs: Path, text_encoder_only: None) -> None:
    build(graphs)
    before = sha256_of_file(graphs / "plans/text_encoder/1/model.plan")
    with pytest.raises(BuildError, match=r"workspace limit.*all that it said: .*logs/text_encoder-1.log"):
        build(graphs, workspace_gib=1e-6)
    assert sha256_of_file(graphs / "plans/text_encoder/1/model.plan") == before
    assert "workspace limit" in (graphs / "plans/logs/text_encoder-1.log").read_text()


def test_an_unknown_size_is_refused(graphs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "multiples of 16 pixels" in refused(capsys, graphs, "--sizes", "100x128x17")
    assert "expert batch 3, accepted: 1, 2" in refused(capsys, graphs, "--expert-batch", "3")


def test_a_full_disk_is_told_before_the_first_build(
    graphs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    told = refused(capsys, graphs)
    assert f"0.4 GB of disk are needed and 0.0 GB are free (5 plans in {graphs}/plans: 0.4 GB)" in told


def test_copies_on_the_disk_of_the_repository_are_counted(
    graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that is there is replaced by its successor, so one at a time takes more room."""
    needs: list[DiskNeed] = []
    monkeypatch.setattr(build_plans, "check_disk_space", needs.extend)
    repository = tmp_path / "repository"
    build(graphs, builder=Recorded(), repository=repository)
    assert [need.folder for need in needs] == [graphs / "plans"], "hard links take no room"
    monkeypatch.setattr(build_plans, "on_one_disk", lambda *folders: False)
    build(graphs, builder=Recorded(), repository=repository)
    assert (needs[-1].folder, needs[-1].needed_bytes) == (repository, needs[0].needed_bytes)
    for graph in GRAPHS:
        (repository / graph / "1").mkdir(parents=True)
        (repository / graph / "1/model.plan").touch()
    build(graphs, builder=Recorded(), repository=repository)
    assert 0 < needs[-1].needed_bytes < needs[0].needed_bytes / 2


def test_this_machines_gpu_cannot_be_meant_where_there_is_none(
    graphs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, graphs, "--compute-capability", "current")
    assert "no GPU is seen here; accepted: portable, or such as 8.9" in message


def see_gpu(monkeypatch: pytest.MonkeyPatch, gpu: RunningGpu) -> None:
    monkeypatch.setattr("export.to_plan.build_plans.running_gpu", lambda: gpu)


def test_what_plans_are_for_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert toolchain(trt, None).target == "portable"
    assert toolchain(trt, "8.6, 8.9").target == ("8.6", "8.9")
    fake = ModuleType("tensorrt")
    fake.__version__ = "11.4"  # type: ignore[attr-defined]
    with pytest.raises(BuildError, match=r"mainline TensorRT \(11.4\) builds for the GPU .* there is none here"):
        toolchain(fake, None)
    see_gpu(monkeypatch, GPU)
    assert toolchain(fake, None).target == ("current",) == toolchain(trt, None).target
    with pytest.raises(BuildError, match="not for '8.9'"):
        toolchain(fake, "8.9")


@pytest.mark.parametrize("wanted", [None, "current"])
def test_tensorrt_rtx_is_refused_before_it_builds_for_a_gpu_that_it_cannot_run_on(
    wanted: str | None, graphs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make plans` finds no other TensorRT; after hours its runtime would refuse the first plan."""
    see_gpu(monkeypatch, H100)
    message = refused(capsys, graphs, *(["--compute-capability", wanted] if wanted else []), "--check-only")
    assert "cannot run on NVIDIA H100 80GB HBM3, compute capability 9.0" in message
    assert "built in the serving image, which has mainline TensorRT: python3 -m deploy.image.build_plans" in message
    assert toolchain(trt, "portable").target == "portable", "which is for other GPUs"
    for capability in ("7.5", "8.0", "12.0", "12.3"):
        see_gpu(monkeypatch, replace(H100, compute_capability=capability))
        assert toolchain(trt, wanted).target == ("current",)


@pytest.mark.parametrize(("named", "times"), [([], 2), (["--tensorrt", "tensorrt_rtx"], 1)])
def test_plans_that_tritons_backend_cannot_load_are_told_before_they_are_built_and_as_they_are_installed(
    named: list[str], times: int, graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    see_gpu(monkeypatch, GPU)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    places = ["--checkpoint", str(ROOT / "training/wan-mini"), "--folder", str(graphs), "--repository", str(tmp_path)]
    build_and_install_plans(parser().parse_args(["plans", *places, *named]), graphs, builder=Recorded())
    told = [message for message in caplog.messages if "Triton's TensorRT backend cannot load such plans" in message]
    assert len(told) == times and all("python3 -m deploy.image.build_plans" in message for message in told)
