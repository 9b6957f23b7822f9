from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.manifests import H100, plan_manifest
from wan_t2v.engines.tensorrt.plan_compatibility import PlanMismatch, Running, check_plan, mismatches, rebuild_command
from wan_t2v.engines.tensorrt.running_gpu import running_gpu
from wan_t2v.manifests import PlannedDeployment, RunningGpu

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
    command = "make plans CHECKPOINT=<diffusers folder> PRECISION=bf16 SIZES=480x832x81,720x1280x81"
    assert str(refused.value).endswith(command)


@pytest.mark.parametrize(
    ("graph", "variable"), [("text_encoder", "TEXT_ENCODER_PRECISION"), ("vae_decoder_next", "VAE_PRECISION")]
)
def test_the_command_names_the_precision_of_the_plans_part(graph: str, variable: str) -> None:
    assert f" {variable}=fp32 " in rebuild_command(plan_manifest(graph=graph, precision="fp32"))


def test_all_reasons_are_told_at_once_and_the_batch_is_in_the_command() -> None:
    manifest = plan_manifest(deployment=PlannedDeployment(("480x832x81",), 2), tf32=True)
    with pytest.raises(
        PlanMismatch, match="here runs tensorrt 1; it needs a GPU.*SIZES=480x832x81 EXPERT_BATCH=2 VAE_TF32=1"
    ):
        check_plan(manifest, Running("tensorrt", "1", None))


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
