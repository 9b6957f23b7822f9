"""What counts as a GPU fault, and the mark of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedded.wheel import installed_wheel
from wan_t2v.operate.gpu_fault import TEXTS, is_gpu_fault, mark_gpu_fault, marked_gpu_fault
from wan_t2v.operate.run_directory import RunDirectory

NEWER = {"Invalid access of peer GPU memory over nvlink or a hardware error"}  # than the wheel's CUDA 12.6


@pytest.mark.parametrize(
    "message",
    [
        "failed to perform CUDA copy: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported",
        "input 'hidden_states': failed to perform CUDA copy: uncorrectable ECC error encountered",
    ],
)
def test_an_error_after_which_the_process_can_use_no_gpu_is_known_by_its_text(message: str) -> None:
    assert is_gpu_fault(message)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB",
        "CUDA error: out of memory",
        "unable to allocate",
        "invalid argument",
    ],
)
def test_what_passes_or_is_of_the_call_alone_is_no_gpu_fault(message: str) -> None:
    assert not is_gpu_fault(message)


def test_the_texts_are_cudas_own() -> None:
    libraries = installed_wheel().binary.parents
    (runtime,) = [path for parent in libraries for path in parent.glob("nvidia_pytriton.libs/libcudart-*")]
    content = runtime.read_bytes()
    assert [text for text in TEXTS if text.encode() + b"\0" not in content and text not in NEWER] == []


def test_a_mark_is_read_until_a_new_server_starts(run_directory: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as server:
        run = RunDirectory.of_server(run_directory, server.pid)
        assert marked_gpu_fault(run) is None
        mark_gpu_fault(run, "misaligned address")
        assert marked_gpu_fault(RunDirectory(run_directory)) == "misaligned address"
        server.kill()
    assert marked_gpu_fault(RunDirectory.of_server(run_directory, os.getpid())) is None
