"""The end of the command's process."""

import subprocess
import sys

import pytest

WITHOUT_AN_END = """
import atexit, threading
from wan_t2v_client.cli.main import run_and_exit
atexit.register(threading.Event().wait)
run_and_exit()
"""


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["nonsense"], 2), (["limits", "--url", "127.0.0.1:1"], 3)]
)
def test_the_process_ends_although_the_interpreter_would_not(arguments: list[str], code: int) -> None:
    """One of gRPC's threads can hold a lock for which the interpreter waits at its end."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_AN_END, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code and (done.stderr if code else done.stdout)
