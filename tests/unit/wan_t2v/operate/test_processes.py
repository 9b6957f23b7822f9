"""Processes of a server, as Linux lists them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.child_process import child_process
from wan_t2v.operate.processes import model_file_processes


@pytest.fixture
def model_file(tmp_path: Path) -> Iterator[Path]:
    """A model's file on the command line of a child of this process; the child says when it runs."""
    path = tmp_path / "low_noise_expert/1/model.py"
    program = "print('runs', flush=True); input()"
    with child_process(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"runs\n"
        yield path
        child.communicate(b"\n")


def test_processes_are_those_of_this_server_and_model(model_file: Path) -> None:
    """Only the child has this file on its command line, and only this process is its parent."""
    assert model_file_processes(os.getpid(), model_file) == 1
    assert model_file_processes(os.getpid(), model_file.parents[2] / "high_noise_expert/1/model.py") == 0
    assert model_file_processes(os.getppid(), model_file) == 0, "of another parent"
