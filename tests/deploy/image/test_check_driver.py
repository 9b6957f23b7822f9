"""The pod's first init container: which driver is there, and which the image's CUDA needs."""

import ctypes
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.image import check_driver
from deploy.image.check_driver import Driver, check
from tests.deploy.rendering import named, pod


def with_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int, *, answer: int = 0) -> None:
    """A `libcuda.so.1` of our own, compiled, so that ctypes does what it does with NVIDIA's."""
    source, library = tmp_path / "cuda.c", tmp_path / "libcuda.so.1"
    source.write_text(f"int cuDriverGetVersion(int *version) {{ *version = {version}; return {answer}; }}\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    real = ctypes.CDLL
    monkeypatch.setattr(check_driver.ctypes, "CDLL", lambda name: real(str(library)))
    monkeypatch.setattr(check_driver.shutil, "which", lambda name: None)


@pytest.fixture(autouse=True)
def image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VERSION", "13.3.1.005")


@pytest.mark.parametrize(
    ("version", "told"),
    [(13030, "CUDA 13.3"), (13050, "CUDA 13.5"), (14000, "CUDA 14.0"), (13000, "minor version compatibility")],
)
def test_a_driver_that_runs_the_images_cuda_is_told(
    version: int, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_library(monkeypatch, tmp_path, version)
    assert check_driver.main([]) == 0
    assert told in capsys.readouterr().out


def test_an_older_driver_is_refused_with_the_one_that_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_library(monkeypatch, tmp_path, 12090)
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 575.57.08\necho 575.57.08\n")
    smi.chmod(0o755)
    monkeypatch.setattr(check_driver.shutil, "which", lambda name: str(smi))
    assert check_driver.main([]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the image has CUDA 13.3, which needs driver 580 or newer; here is driver 575.57.08")
    assert "for CUDA 12.9" in line and "Update the node's driver" in line


def test_no_driver_and_one_that_fails_are_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_library(monkeypatch, tmp_path, 0, answer=999)
    assert check_driver.main([]) == 1
    assert "CUDA error 999" in capsys.readouterr().err
    monkeypatch.undo()

    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(check_driver, "ctypes", SimpleNamespace(CDLL=missing, c_int=ctypes.c_int, byref=ctypes.byref))
    assert check_driver.main([]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no NVIDIA driver is here (libcuda.so.1" in line and "driver 580 or newer" in line
    assert "gpu.runtimeClassName" in line


@pytest.mark.parametrize("value", ["", "13", "a.b.c"])
def test_an_image_that_does_not_tell_its_cuda_counts_as_the_pinned_one(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VERSION", value)
    assert check_driver.cuda_of_image() == check_driver.CUDA_OF_IMAGE == (13, 3)


def test_a_future_cuda_is_named_without_a_driver_that_nobody_knows() -> None:
    with pytest.raises(check_driver.DriverUnfitError, match="CUDA 15.1, which needs a driver for CUDA 15; here is"):
        check(Driver((14, 2), "700.1"), (15, 1))


@pytest.mark.parametrize("values", ["values-gpu-80", "values-gpu-2x80", "values-gpu-141"])
def test_it_runs_before_everything_else_of_a_pod_with_gpus(values: str) -> None:
    first, *_ = pod(values)["initContainers"]
    assert first["command"] == ["python3", "-m", "deploy.image.check_driver"]
    repository = named(pod(values)["initContainers"], "repository")["resources"]["limits"]
    assert first["resources"]["limits"]["nvidia.com/gpu"] == repository["nvidia.com/gpu"], "else no driver is mounted"
    assert "driver" not in {container["name"] for container in pod("values-cpu")["initContainers"]}
