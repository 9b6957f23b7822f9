"""Processes of a server, as Linux lists them."""

import os
from pathlib import Path

from wan_t2v.operate.processes import model_file_processes


def test_processes_are_those_of_this_server_and_model(tmp_path: Path) -> None:
    """Nothing runs that model; this test's own process is found by the first word of its command line."""
    own = Path(Path("/proc/self/cmdline").read_bytes().split(b"\0")[0].decode())
    assert model_file_processes(os.getppid(), tmp_path / "low_noise_expert/1/model.py") == 0
    assert model_file_processes(os.getppid(), own) >= 1
    assert model_file_processes(os.getpid(), own) == 0, "of another parent"
