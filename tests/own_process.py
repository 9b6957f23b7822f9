"""Tests that send their own process a real signal, run in a process of their own.

A worker of xdist was seen to die at such a test, silently, in one run of many.
"""

import subprocess
import sys


def check_in_own_process(path: str) -> None:
    """Run the tests of a file, relative to the repository, and pass if they all do."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", path]
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert finished.returncode == 0, finished.stdout
    assert " passed" in finished.stdout
