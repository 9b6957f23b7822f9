import json
import shutil
from collections import namedtuple
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from export import plans
from export.__main__ import main
from export.plan_manifest import sha256
from export.plan_table import Deployment, plans_of
from export.plans import built_plans, installed_plans, toolchain
from export.to_plan import BuildError
from wan_t2v.facts import ModelFacts
from wan_t2v.plan_match import PlanMismatch, Running, RunningGpu, check_plan
from wan_t2v.shapes import VideoShape

trt = pytest.importorskip("tensorrt_rtx")
CLIP, WIDE = VideoShape(17, 128, 128), VideoShape(17, 128, 192)
GPU = RunningGpu("NVIDIA L4", "8.9", "580.65.06")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers on machines that have one."""
    monkeypatch.setattr(plans, "running_gpu", lambda: None)


@pytest.fixture
def graphs(exported: Path, tmp_path: Path) -> Path:
    """wan-mini's exported graphs, to change."""
    return Path(shutil.copytree(exported, tmp_path / "graphs", ignore=shutil.ignore_patterns("plans")))


@pytest.fixture
def text_encoder_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan that builds fastest stands for all."""
    monkeypatch.setattr(plans, "plans_of", lambda *args: [s for s in plans_of(*args) if s.graph == "text_encoder"])


def built(graphs: Path, *sizes: VideoShape, **options: Any) -> list[Any]:
    tools = toolchain(trt, options.pop("target", None), options.pop("workspace_gib", None))
    return built_plans(graphs, graphs / "plans", Deployment(sizes or (CLIP,), **options), tools)


def refused(capsys: pytest.CaptureFixture[str], graphs: Path, *options: str) -> str:
    """What `python -m export plans` says when it ends with 1; nothing may have been built."""
    assert main(["plans", "--folder", str(graphs), *options]) == 1
    assert not list(graphs.glob("plans/*/*/model.plan"))
    return capsys.readouterr().err


def test_a_deployment_is_one_plan_an_expert_and_a_version_of_the_vae_a_size(exported: Path) -> None:
    facts = ModelFacts.read(exported)
    found = {(spec.graph, spec.version): spec for spec in plans_of(Deployment((CLIP, WIDE), 2), facts)}
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
    installed_plans(specs, graphs, graphs / "plans", repository)
    for spec in specs:
        home = repository / spec.graph / "1"
        manifest = json.loads((home / "plan.json").read_text())
        assert manifest["plan_sha256"] == sha256(home / "model.plan")
        assert (home / "manifest.json").read_bytes() == (graphs / spec.graph / "manifest.json").read_bytes()
        assert (graphs / f"plans/logs/{spec.graph}-1.log").stat().st_size
        graph = json.loads((graphs / spec.graph / "manifest.json").read_text())
        for key in ("onnx_sha256", "checkpoint_sha256", "precision"):
            assert manifest[key] == graph[key], key
        assert manifest["tensorrt"] == {"module": "tensorrt_rtx", "version": trt.__version__}
        assert (manifest["gpu"], manifest["target"]) == (None, "portable")
    assert not list((graphs / "plans").rglob("*.partial")) and not list((graphs / "plans").rglob("*.old"))


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
    manifest = json.loads((graphs / "plans/text_encoder/1/plan.json").read_text())
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
    monkeypatch.setattr(plans.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    assert "5 plans need about 0.1 GiB of disk, 0.0 GiB are free" in refused(capsys, graphs)


def test_this_machines_gpu_cannot_be_meant_where_there_is_none(
    graphs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, graphs, "--compute-capability", "current")
    assert "no GPU is seen here; accepted: portable, or such as 8.9" in message


def test_what_plans_are_for_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert toolchain(trt, None, None).target == "portable"
    assert toolchain(trt, "8.6, 8.9", None).target == ["8.6", "8.9"]
    fake = ModuleType("tensorrt")
    fake.__version__ = "11.4"  # type: ignore[attr-defined]
    with pytest.raises(BuildError, match=r"mainline TensorRT \(11.4\) builds for the GPU .* there is none here"):
        toolchain(fake, None, None)
    monkeypatch.setattr(plans, "running_gpu", lambda: GPU)
    assert toolchain(fake, None, None).target == ["current"] == toolchain(trt, None, None).target
    with pytest.raises(BuildError, match="not for '8.9'"):
        toolchain(fake, "8.9", None)
