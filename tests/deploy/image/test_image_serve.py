"""The command of the server's container."""

import os
import resource
import subprocess
import sys
from pathlib import Path

from tests.deploy.rendering import ROOT, server
from wan_t2v.operate.stack import STACK_BYTES

TRITON = """#!{python}
import resource, sys
print(resource.getrlimit(resource.RLIMIT_STACK)[0], *sys.argv[1:])
"""


def test_the_servers_command_becomes_triton_with_a_deep_stack(tmp_path: Path) -> None:
    fake = tmp_path / "tritonserver"
    fake.write_text(TRITON.format(python=sys.executable))
    fake.chmod(0o755)
    command = [sys.executable, "-m", *server("values-cpu")["command"][2:], "--model-repository=/repository", "--x=a b"]
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    stack, options = done.stdout.strip().split(" ", 1)
    assert (done.returncode, options) == (0, "--model-repository=/repository --x=a b")
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    assert int(stack) == (STACK_BYTES if hard == resource.RLIM_INFINITY else min(hard, STACK_BYTES))


def test_the_servers_command_outside_the_image_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", *server("values-cpu")["command"][2:]]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: tritonserver cannot be run"), done.stderr
