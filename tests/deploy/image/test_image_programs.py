"""The programs inside the image: the Job that builds plans, and the init container."""

import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.image import assemble, build_plans
from export import disk_space
from export.checkpoint.architecture import A14B
from export.graphs.registry import GRAPHS
from export.placement.gpu_memory import GpuMemory, ServingProfile, parse_size
from export.to_onnx.a14b_dummy import write_dummy
from export.to_onnx.install import READ_BY, install_model_files
from tests.child_process import child_process
from tests.deploy.rendering import ROOT, named, pod, server
from tests.fakes.manifests import plan_manifest
from tests.waiting import LIMIT_S, wait_until
from wan_t2v.installed_files import sha256_of_file
from wan_t2v.manifests import PlannedDeployment, RunningGpu, TensorRtVersion, to_json

GPU = RunningGpu("NVIDIA H100 80GB HBM3", "9.0", "610.43")
# what was measured agrees with what was estimated
ESTIMATED = {
    graph: (memory.context,)
    for graph, memory in GpuMemory(A14B, ServingProfile((parse_size("720x1280x81"),)), {}).plans.items()
}
PLACEMENT = [
    "--gpu",
    "141",
    "--size",
    "720x1280x81",
    "--precision",
    "bf16",
    "--vae-precision",
    "fp32",
    "--door",
    "both",
]


def plan_set(folder: Path, **changed: Any) -> Path:
    """A set as build_plans leaves it, of small files that are no plans."""
    repository = folder / build_plans.REPOSITORY
    for graph in GRAPHS:
        home = repository / graph / "1"
        home.mkdir(parents=True)
        (home / "model.plan").write_bytes(graph.encode())
        content = graph.encode()
        manifest = plan_manifest(
            graph=graph,
            sizes=("720x1280x81",),
            tensorrt=TensorRtVersion("tensorrt", "11.1.0.106"),
            gpu=GPU,
            deployment=PlannedDeployment(("720x1280x81",), 1),
            plan_sha256=hashlib.sha256(content).hexdigest(),
            device_memory_bytes=ESTIMATED[graph],
        )
        (home / "plan.json").write_text(to_json(replace(manifest, **changed)))
        (home / "manifest.json").write_text("{}")
    (folder / "graphs").mkdir()
    for name in {name for names in READ_BY.values() for name in names}:
        (folder / "graphs" / name).write_text("{}")
    install_model_files(folder / "graphs", repository)
    build_plans.write_plan_set(folder)
    return folder


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "running_gpu", lambda: GPU)
    monkeypatch.setattr(assemble, "tensorrt_module", lambda name: SimpleNamespace(__version__="11.1.0.106"))
    monkeypatch.chdir(ROOT)


def assembled(plans: Path, repository: Path, values: str = "values-gpu-141") -> int:
    """The init container's own command line, with other folders."""
    arguments = list(named(pod(values)["initContainers"], "repository")["args"])
    arguments[arguments.index("--plan-set") + 1] = str(plans)
    arguments[arguments.index("--repository") + 1] = str(repository)
    return assemble.main(arguments)


def test_the_init_command_makes_a_repository_of_the_images_shells_and_the_volumes_plans(
    tmp_path: Path, on_a_gpu: None
) -> None:
    plans, repository = plan_set(tmp_path / "set"), tmp_path / "repository"
    assert assembled(plans, repository) == 0
    plan = repository / "high_noise_expert/1/model.plan"
    assert plan.is_symlink() and plan.read_bytes() == b"high_noise_expert"
    assert (repository / "prepare/1/serving_defaults.json").exists()
    assert (repository / "denoiser/1/model.py").read_text() == (
        ROOT / "model_repository/denoiser/1/model.py"
    ).read_text()
    assert "in_process" in (repository / "text_to_video_stream/configs/placed.pbtxt").read_text()
    loaded = {a.partition("=")[2] for a in server("values-gpu-141")["args"] if a.startswith("--load-model=")}
    assert loaded and all((repository / model / "config.pbtxt").exists() for model in loaded)


def test_a_missing_set_is_told_with_those_that_are_there(
    tmp_path: Path, on_a_gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_set(tmp_path / "there")
    assert assembled(tmp_path / "wanted", tmp_path / "repository") == 1
    told = capsys.readouterr().err
    assert "wanted holds no whole set of plans" in told and "(there)" in told and "Job" in told


def test_a_plan_of_an_older_version_is_refused_with_the_remedy(
    tmp_path: Path, on_a_gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as one without the memory that was measured: nothing is guessed."""
    plans = plan_set(tmp_path / "set")
    manifest = plans / "model_repository/text_encoder/1/plan.json"
    raw = json.loads(manifest.read_text())
    del raw["workspace_gib"]
    manifest.write_text(json.dumps(raw))
    listing = plans / build_plans.PLAN_SET
    files = json.loads(listing.read_text())["files"]
    listing.write_text(json.dumps({"files": {**files, "text_encoder/1/plan.json": sha256_of_file(manifest)}}))
    assert assembled(plans, tmp_path / "repository") == 1
    told = capsys.readouterr().err
    assert "workspace_gib is missing. Run `python3 -m deploy.image.build_plans` again" in told and "Job" in told


def test_a_plan_that_changed_is_refused(tmp_path: Path, on_a_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    plans = plan_set(tmp_path / "set")
    (plans / "model_repository/low_noise_expert/1/model.plan").write_bytes(b"cut short")
    assert assembled(plans, tmp_path / "repository") == 1
    told = capsys.readouterr().err
    assert "low_noise_expert/1/model.plan changed since its set was built" in told and "Run the Job again" in told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"tensorrt": TensorRtVersion("tensorrt", "11.2.1.2")}, "built with tensorrt 11.2.1.2, here runs"),
        ({"gpu": RunningGpu("NVIDIA A100", "8.0", "1")}, "it was built on NVIDIA A100"),
        ({"device_memory_bytes": None}, "has no device_memory_bytes, so whether the plan fits"),
    ],
)
def test_a_set_for_another_machine_is_refused(
    tmp_path: Path, on_a_gpu: None, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], told: str
) -> None:
    assert assembled(plan_set(tmp_path / "set", **changed), tmp_path / "repository") == 1
    assert told in capsys.readouterr().err


def test_measured_plans_that_need_other_options_are_refused_with_them(
    tmp_path: Path, on_a_gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = plan_set(tmp_path / "set", device_memory_bytes=(20 * 2**30,))
    assert assembled(plans, tmp_path / "repository") == 1
    assert "Set placement.options to the former" in capsys.readouterr().err


def steps(monkeypatch: pytest.MonkeyPatch, code: int) -> list[list[str]]:
    ran: list[list[str]] = []

    @contextlib.contextmanager
    def run(command: list[str]) -> Iterator[SimpleNamespace]:
        ran.append(command)
        yield SimpleNamespace(wait=lambda: code)

    monkeypatch.setattr(build_plans, "subprocess", SimpleNamespace(Popen=run))
    return ran


def test_the_jobs_command_exports_builds_and_closes_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into = plan_set(tmp_path / "set")
    (into / build_plans.PLAN_SET).unlink()
    ran = steps(monkeypatch, 0)
    (job,) = pod("ci/everything-values", kind="Job")["containers"]
    arguments = list(job["args"])
    arguments[arguments.index("--into") + 1] = str(into)
    arguments[arguments.index("--checkpoint") + 1] = str(ROOT / "training/wan-mini")
    assert build_plans.main(arguments) == 0
    assert [command[3] for command in ran] == ["onnx", "plans"]
    assert ran[0][ran[0].index("--precision") + 1] == "fp8" and "--fp8-ranges" in ran[0]
    assert ran[1][ran[1].index("--sizes") + 1] == "480x832x81,720x1280x81"
    files = json.loads((into / build_plans.PLAN_SET).read_text())["files"]
    assert files["text_encoder/1/model.plan"] == hashlib.sha256(b"text_encoder").hexdigest()
    assert "prepare/1/tokenizer.json" in files


def test_a_full_disk_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plans' room too: they are built after the whole export."""
    ran = steps(monkeypatch, 0)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**8))
    arguments = ["--checkpoint", str(ROOT / "training/wan-mini"), "--into", str(tmp_path), "--sizes", "64x64x5"]
    assert build_plans.main(arguments) == 1
    told = capsys.readouterr().err
    assert "of disk are needed and 0.1 GB are free" in told
    assert f"graphs with their weights in {tmp_path}/graphs: " in told and f"plans in {tmp_path}: 0." in told
    assert not ran


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--sizes", "100x64x5"], "multiples of 16 pixels"),
        (["--sizes", "64x64x5", "--precision", "fp7"], "fp7"),
        (["--sizes", "64x64x5", "--workspace-gib", "0.5", "--text-encoder-precision", "fp16"], "fp16"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    told: str,
) -> None:
    ran = steps(monkeypatch, 0)
    arguments = ["--checkpoint", str(ROOT / "training/wan-mini"), "--into", str(tmp_path), *options]
    assert build_plans.main(arguments) == 1
    assert told in capsys.readouterr().err and not ran


def test_the_room_for_a14b_follows_from_its_configs(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    write_dummy(checkpoint)
    arguments = ["--checkpoint", str(checkpoint), "--into", str(tmp_path / "set"), "--sizes", "480x832x81"]
    options = build_plans.parser().parse_args([*arguments, "--bf16-shards"])
    needs = {need.purpose: need.needed_bytes / 1e9 for need in build_plans.disk_needs(options)}
    assert needs["plans"] == pytest.approx(83, abs=1)
    assert needs["BF16 copies of the experts' shards"] == pytest.approx(57.3, abs=0.2)
    assert needs["graphs beside the weights"] == 0.25


def test_a_step_that_fails_leaves_no_whole_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = steps(monkeypatch, 1)
    arguments = ["--checkpoint", str(ROOT / "training/wan-mini"), "--into", str(tmp_path), "--sizes", "64x64x5"]
    assert build_plans.main(arguments) == 1
    assert len(ran) == 1 and not (tmp_path / build_plans.PLAN_SET).exists()
    assert "export onnx failed" in capsys.readouterr().err


def test_a_container_that_is_stopped_stops_its_step_too_and_lets_it_clean_up(tmp_path: Path) -> None:
    """A runtime sends SIGTERM to the first process alone."""
    (tmp_path / "model_index.json").touch()
    step = (
        "import pathlib, signal, sys, time\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: (folder / 'cleaned-up').touch() or sys.exit(130))\n"
        "(folder / 'started').touch()\n"
        "while True: time.sleep(0.05)\n"
    )
    program = (
        "import sys\n"
        "from deploy.image import build_plans\n"
        "step = sys.argv.pop()\n"
        "build_plans.disk_needs = lambda options: []\n"
        "build_plans.commands = lambda options: [['step']]\n"
        "popen = build_plans.subprocess.Popen\n"
        "build_plans.subprocess.Popen = lambda command: popen([sys.executable, '-c', step])\n"
        "sys.exit(build_plans.main())\n"
    )
    arguments = ["--checkpoint", str(tmp_path), "--into", str(tmp_path / "set"), "--sizes", "32x32x5"]
    command = [sys.executable, "-c", program, *arguments, step]
    with child_process(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        try:
            wait_until((tmp_path / "started").exists)
            running.terminate()
            errors = running.communicate(timeout=LIMIT_S)[1]
        finally:
            running.kill()
    assert running.returncode == 130
    assert (tmp_path / "cleaned-up").exists()
    assert "stopped; what was finished before is kept" in errors


def test_a_volume_without_a_checkpoint_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--checkpoint", str(tmp_path / "none"), "--into", str(tmp_path), "--sizes", "64x64x5"]
    assert build_plans.main(arguments) == 1
    assert "model_index.json is missing" in capsys.readouterr().err
