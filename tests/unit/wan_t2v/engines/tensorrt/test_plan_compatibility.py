import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.image import build_plans
from export.graphs.precision import IN_PLANS, needs_ranges
from tests.fakes.manifests import H100, plan_manifest
from wan_t2v.engines.tensorrt.plan_compatibility import PlanMismatch, Running, check_plan, mismatches, rebuild_command
from wan_t2v.engines.tensorrt.running_gpu import running_gpu
from wan_t2v.manifests import PlanManifest, PlannedDeployment, RunningGpu, TensorRtVersion

RTX_4090 = RunningGpu("NVIDIA GeForce RTX 4090", "8.9", "580.65.06")
MANIFEST = plan_manifest()
HERE = Running("tensorrt", "11.4.0.106", H100, "abc")


def test_a_plan_fits_where_it_was_built_whatever_the_driver() -> None:
    assert mismatches(MANIFEST, HERE) == []
    check_plan(MANIFEST, replace(HERE, gpu=replace(H100, driver="550.1")))


@pytest.mark.parametrize(
    ("running", "reason"),
    [
        (Running("tensorrt", "10.14.1.48", H100), "built with tensorrt 11.4.0.106, here runs tensorrt 10.14.1.48"),
        (Running("tensorrt_rtx", "11.4.0.106", H100), "here runs tensorrt_rtx 11.4.0.106"),
        (
            Running("tensorrt", "11.4.0.106", RTX_4090),
            r"built on NVIDIA H100 80GB HBM3 \(9.0\), here is .*4090 \(8.9\)",
        ),
        (Running("tensorrt", "11.4.0.106", None), "needs a GPU, and the driver shows none"),
        (Running("tensorrt", "11.4.0.106", H100, "def"), "the ONNX graph was exported again"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_with_the_command_that_mends_it(running: Running, reason: str) -> None:
    with pytest.raises(PlanMismatch, match=reason) as refused:
        check_plan(MANIFEST, running)
    places = "--checkpoint <diffusers folder> --into <folder of the set>"
    command = f"python3 -m deploy.image.build_plans {places} --precision bf16 --sizes 480x832x81,720x1280x81"
    assert str(refused.value).endswith(f". Build it again in the serving image: {command}")


PARTS = pytest.mark.parametrize(
    ("graph", "option"),
    [
        ("text_encoder", "text_encoder_precision"),
        ("low_noise_expert", "precision"),
        ("vae_decoder_next", "vae_precision"),
    ],
)


def planned(graph: str, module: str) -> PlanManifest:
    deployment = PlannedDeployment(("480x832x81",), 2)
    version = TensorRtVersion(module, "1")
    return plan_manifest(graph=graph, precision="fp32", tensorrt=version, deployment=deployment, tf32=True)


@PARTS
def test_plans_of_mainline_tensorrt_are_rebuilt_by_the_program_of_the_serving_image(graph: str, option: str) -> None:
    command = rebuild_command(planned(graph, "tensorrt"))
    *program, name = shlex.split(command)[:3]
    assert (program, name) == (["python3", "-m"], build_plans.__name__)
    arguments = shlex.split(command.replace("<", "'").replace(">", "'"))[3:]
    options = build_plans.parser().parse_args(arguments)
    assert (options.sizes, options.expert_batch, options.vae_tf32) == ("480x832x81", 2, True)
    assert getattr(options, option) == "fp32"


@PARTS
def test_those_of_tensorrt_rtx_are_rebuilt_by_make(graph: str, option: str, root: Path) -> None:
    command = rebuild_command(planned(graph, "tensorrt_rtx"))
    names = f"{option.upper()}=fp32 SIZES=480x832x81 EXPERT_BATCH=2 VAE_TF32=1"
    assert command == f"make plans CHECKPOINT=<diffusers folder> {names}"
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    assert all(f"$({name.partition('=')[0]})" in makefile for name in names.split())


@pytest.mark.parametrize("precision", IN_PLANS["experts"])
def test_experts_in_eight_bits_are_rebuilt_with_their_calibrated_ranges(precision: str) -> None:
    placeholder = "<file of make calibrate>"
    mainline = rebuild_command(plan_manifest(precision=precision))
    rtx = rebuild_command(plan_manifest(precision=precision, tensorrt=TensorRtVersion("tensorrt_rtx", "1")))
    assert f"--precision {precision} " in mainline and f"PRECISION={precision} " in rtx
    assert (f" --fp8-ranges {placeholder}" in mainline) == needs_ranges(precision)
    assert (f" FP8_RANGES={placeholder}" in rtx) == needs_ranges(precision)


def test_the_command_of_any_plan_names_all_that_the_run_was_given(root: Path) -> None:
    """Else it would build the other plans of the set in other precisions."""
    precisions = {"text_encoder": "fp32", "high_noise_expert": "int8-bf16", "vae_decoder_next": "bf16"}
    run = PlannedDeployment(("480x832x81",), 1, precisions, workspace_gib=4.5, vae_tf32=True, bf16_shards=True)
    command = rebuild_command(plan_manifest(graph="text_encoder", precision="fp32", deployment=run))
    options = build_plans.parser().parse_args(shlex.split(command.replace("<", "'").replace(">", "'"))[3:])
    assert (options.precision, options.text_encoder_precision, options.vae_precision) == ("int8-bf16", "fp32", "bf16")
    assert (options.workspace_gib, options.vae_tf32, options.bf16_shards) == (4.5, True, True)
    assert options.fp8_ranges == Path("file of make calibrate")
    version = TensorRtVersion("tensorrt_rtx", "1")
    _, variables = rebuild_command(
        plan_manifest(graph="text_encoder", precision="fp32", deployment=run, tensorrt=version)
    ).split("<diffusers folder> ")
    names = "TEXT_ENCODER_PRECISION=fp32 PRECISION=int8-bf16 VAE_PRECISION=bf16 SIZES=480x832x81 WORKSPACE_GIB=4.5"
    assert variables == f"{names} FP8_RANGES=<file of make calibrate> VAE_TF32=1 BF16_SHARDS=1"
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    assert all(f"$({name})" in makefile for name in ("WORKSPACE_GIB", "FP8_RANGES", "VAE_TF32", "BF16_SHARDS"))


def test_all_reasons_are_told_at_once() -> None:
    with pytest.raises(PlanMismatch, match="here runs tensorrt 1; it needs a GPU"):
        check_plan(MANIFEST, Running("tensorrt", "1", None))


@pytest.mark.parametrize(
    ("capability", "fits"),
    [("7.5", False), ("8.0", True), ("8.6", True), ("8.9", True), ("9.0", False), ("10.0", False), ("12.0", True), ("12.1", True)],
)  # fmt: skip
def test_a_portable_plan_fits_the_gpus_that_tensorrt_rtx_runs_on(capability: str, fits: bool) -> None:
    """Not Hopper, where TensorRT-RTX builds a plan that its runtime then refuses."""
    running = Running("tensorrt", "11.4.0.106", RunningGpu("GPU", capability, "1"))
    reason = f"it is for compute capability 8.0, 8.6, 8.9, 12.0 and later, here is GPU ({capability})"
    assert mismatches(plan_manifest(target="portable", gpu=None), running) == ([] if fits else [reason])


def test_a_plan_for_named_capabilities_fits_those() -> None:
    named = plan_manifest(target=("8.6", "8.9"), gpu=None)
    assert mismatches(named, Running("tensorrt", "11.4.0.106", RTX_4090)) == []
    assert "it is for compute capability 8.6, 8.9, here is" in mismatches(named, HERE)[0]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of nvidia-smi."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\n[ "$2" = 0 ] && echo "{H100.name}, 9.0, {H100.driver}" || exit 6\n')
    tool.chmod(0o755)
    return tool


def test_the_gpu_is_what_the_driver_says(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert running_gpu() == H100
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,0")
    assert running_gpu() is None, "the program knows no GPU 3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert running_gpu() is None


def test_a_machine_without_a_driver_has_no_gpu(driver: Path) -> None:
    driver.unlink()
    assert running_gpu() is None
