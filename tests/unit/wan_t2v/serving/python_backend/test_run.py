"""A GPU fault, as callers and the probes are told of it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.pb_utils import FakePbUtils, FakeResponse, FakeTritonError
from wan_t2v.engines.tensorrt.tensorrt_plan import PlanError
from wan_t2v.operate.gpu_fault import marked_gpu_fault
from wan_t2v.operate.run_directory import RunDirectory, RunDirectoryError
from wan_t2v.serving.errors import ModelCallError
from wan_t2v.serving.python_backend import run
from wan_t2v.serving.python_backend.model_call import TritonEngine
from wan_t2v.serving.python_backend.parameters import ModelParameters
from wan_t2v.serving.python_backend.responses import error_response
from wan_t2v.serving.python_backend.run import server_pid, server_run_directory

FAULT = "an illegal memory access was encountered"
TOLD = "cannot answer at the moment, try again: the GPU failed, and the server must be started again"


@pytest.fixture
def opened(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """The directory that this process's model has opened."""
    monkeypatch.setattr(run, "_of_process", [])
    parameters = ModelParameters("denoiser", run_directory, {"run_directory": str(run_directory)})
    return server_run_directory(parameters)


def failed_call(model: str, message: str) -> ModelCallError:
    pb_utils = FakePbUtils(lambda *_: FakeResponse(failure=FakeTritonError(message, "INTERNAL")))
    with pytest.raises(ModelCallError) as failed:
        TritonEngine(pb_utils, model, read=lambda tensor: tensor)({}, ["y"])
    return failed.value


def test_a_graph_whose_gpu_failed_is_unavailable_and_the_server_is_marked(opened: RunDirectory) -> None:
    """By the text of Triton's TensorRT backend, which gives INTERNAL, and no client tries that again."""
    error = failed_call("low_noise_expert", f"failed to perform CUDA copy: {FAULT}")
    told = f"low_noise_expert: {TOLD} (failed to perform CUDA copy: {FAULT})"
    assert (error.code, str(error)) == ("UNAVAILABLE", told)
    assert marked_gpu_fault(opened) == f"failed to perform CUDA copy: {FAULT}"


@pytest.mark.parametrize("kind", [RuntimeError, PlanError])
def test_a_gpu_that_failed_in_this_process_is_told_in_the_same_way(
    kind: Callable[[str], Exception], opened: RunDirectory
) -> None:
    pb_utils = FakePbUtils()
    error = error_response(pb_utils, kind(f"CUDA error: {FAULT}\nCUDA kernel errors might be late")).error()
    assert error.code() == "UNAVAILABLE" and error.message().startswith(f"{TOLD} ({kind.__name__}: CUDA error: {FAULT}")
    assert "\n" not in error.message() and FAULT in str(marked_gpu_fault(opened))
    assert pb_utils.logged


def test_a_fault_that_a_graphs_own_process_told_is_not_wrapped_twice(opened: RunDirectory) -> None:
    inner = error_response(FakePbUtils(), RuntimeError(FAULT)).error().message()
    assert str(failed_call("vae_decoder_next", inner)).count(TOLD) == 1
    assert marked_gpu_fault(opened)


@pytest.mark.parametrize("model", ["prepare", "denoiser"])
def test_a_text_that_a_caller_may_have_written_marks_nothing(model: str, opened: RunDirectory) -> None:
    assert failed_call(model, f"no such prompt: {FAULT}").code == "INTERNAL"
    assert error_response(FakePbUtils(), ValueError(f"no such prompt: {FAULT}")).error().code() == "INTERNAL"
    assert marked_gpu_fault(opened) is None


def test_a_lack_of_memory_passes_and_marks_nothing(opened: RunDirectory) -> None:
    assert error_response(FakePbUtils(), RuntimeError("CUDA error: out of memory")).error().code() == "INTERNAL"
    assert marked_gpu_fault(opened) is None


def test_a_process_without_a_run_directory_answers_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_of_process", [])
    assert failed_call("text_encoder", FAULT).code == "UNAVAILABLE"


def test_the_directory_is_of_the_server_that_started_this_process(opened: RunDirectory) -> None:
    server = opened.server()
    assert server is not None and server["pid"] == os.getppid()


def test_a_late_process_of_a_dead_server_marks_no_later_one(opened: RunDirectory) -> None:
    opened.write_json("server.json", {"pid": os.getpid(), "started": "1"})
    assert failed_call("text_encoder", FAULT).code == "UNAVAILABLE"
    assert marked_gpu_fault(opened) is None


def stub_command_line(folder: Path, server: int) -> Path:
    words = [
        "/opt/tritonserver/backends/python/triton_python_backend_stub",
        "/m/prepare/1/model.py",
        "region",
        "1",
        "1",
    ]
    (folder / "cmdline").write_text("\0".join([*words, str(server), "/opt", "336", "prepare_0_0", "DEFAULT", ""]))
    return folder / "cmdline"


def test_a_process_whose_server_has_ended_gives_the_directory_to_no_other(tmp_path: Path) -> None:
    """Its parent is init then, which lives for ever: no server could have the directory after it."""
    assert server_pid(stub_command_line(tmp_path, os.getppid())) == os.getppid()
    with pytest.raises(RunDirectoryError, match=rf"the server {os.getpid()} that started this process has ended"):
        server_pid(stub_command_line(tmp_path, os.getpid()))


@pytest.mark.parametrize("words", ["python\0-m\0pytest\0a\0b\0c\0", "triton_python_backend_stub\0short\0", ""])
def test_another_command_line_tells_nothing(words: str, tmp_path: Path) -> None:
    (tmp_path / "cmdline").write_text(words)
    assert server_pid(tmp_path / "cmdline") == os.getppid()
