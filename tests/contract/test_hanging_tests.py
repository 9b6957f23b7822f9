"""A test that hangs fails after its limit, and the run goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

HANGS = """
import sys
from tests.child_process import child_process

def test_one_that_waits_for_ever():
    with child_process([sys.executable, "-c", "import time; time.sleep(3600)"]) as child:
        child.wait()

def test_the_next_one():
    pass
"""


def test_a_test_that_hangs_fails_and_the_next_one_runs(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "test_hangs.py"
    file.write_text(HANGS)
    options = ["-c", str(root / "pyproject.toml"), "-p", "no:cacheprovider", "-p", "no:xdist", "--timeout", "1"]
    command = [sys.executable, "-m", "pytest", *options, str(file)]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert "1 failed, 1 passed" in ended.stdout, ended.stdout + ended.stderr
    assert "Timeout" in ended.stdout and "child.wait()" in ended.stdout


def test_every_test_has_a_limit(pytestconfig: pytest.Config) -> None:
    assert float(pytestconfig.getini("timeout")) > 0
