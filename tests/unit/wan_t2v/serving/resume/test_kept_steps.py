"""How many steps a checkpoint has, told without torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.wan_t2v.serving.resume.test_checkpoint_store import CALLER, FIRST, KEY, ROOMY, kept
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.serving.resume.checkpoint_store import Checkpoints
from wan_t2v.serving.resume.idempotency import RequestKey
from wan_t2v.serving.resume.kept_steps import kept_steps, publish_folder, read_steps_done


def test_the_steps_of_a_key_are_those_of_its_last_checkpoint(tmp_path: Path, run_directory: Path) -> None:
    run, folder = RunDirectory.of_server(run_directory, os.getpid()), tmp_path / "kept"
    assert kept_steps(run, RequestKey(KEY, CALLER)) == 0
    publish_folder(run, folder)
    with Checkpoints(folder, ROOMY).lock(KEY, CALLER) as checkpoint:
        assert kept_steps(run, RequestKey(KEY, CALLER)) == 0
        checkpoint.write(FIRST, kept(3))
        assert kept_steps(run, RequestKey(KEY, CALLER)) == 3
        checkpoint.write(FIRST, kept(7))
    assert kept_steps(run, RequestKey(KEY, CALLER)) == 7
    assert kept_steps(run, RequestKey(KEY, "bob")) == 0
    assert kept_steps(run, None) == 0
    publish_folder(run, None)
    assert kept_steps(run, RequestKey(KEY, CALLER)) == 0


@pytest.mark.parametrize("content", [b"", b"PK", b"wan-t2v checkpoint 5\n", os.urandom(2000)])
def test_a_file_that_is_none_has_no_steps(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.checkpoint"
    path.write_bytes(content)
    assert read_steps_done(path) == 0


def test_every_cut_of_a_checkpoint_has_its_steps_or_none(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, ROOMY).lock(KEY, CALLER) as checkpoint:
        checkpoint.write(FIRST, kept(3))
        whole = checkpoint.path.read_bytes()
        for end in range(0, len(whole), 97):
            checkpoint.path.write_bytes(whole[:end])
            assert read_steps_done(checkpoint.path) == 0


def test_a_wrong_bit_in_its_directory_fails_no_request(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, ROOMY).lock(KEY, CALLER) as checkpoint:
        checkpoint.write(FIRST, kept(3))
        whole = checkpoint.path.read_bytes()
        for at in range(len(whole) - 1000, len(whole)):
            for bit in range(8):
                checkpoint.path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
                assert read_steps_done(checkpoint.path) in (0, 3)


def test_it_needs_no_torch() -> None:
    code = "import sys, wan_t2v.serving.resume.kept_steps; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
