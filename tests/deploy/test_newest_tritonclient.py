"""The client works with the tritonclient that `pip install ./client` takes today, not only with the pinned one.

It installs that into a folder of its own; where there is no package index the test is skipped.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# The first ones call each endpoint in both ways; the last ones would wait for ever for calls that never begin.
TESTS = ("test_fields.py", "test_text_to_video.py", "test_streaming.py", "test_async_text_to_video.py")
# Run in another process, since this one may have imported the pinned release.
RUN = """
import sys
from importlib.metadata import version
import pytest, tritonclient
assert tritonclient.__path__[0].startswith(sys.argv[1]), tritonclient.__path__
print("tritonclient", version("tritonclient"))
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


@pytest.fixture
def newest(root: Path, tmp_path: Path) -> Path:
    """A folder with the newest packages that the client allows."""
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "pip", "install", "--python", sys.executable, "--target", tmp_path / "newest", "--quiet"]
    finished = subprocess.run(
        [*command, "--system-certs", "--only-binary", ":all:", "--requirements", "client/pyproject.toml"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    if finished.returncode and re.search(r"error sending request|dns error|Failed to fetch", finished.stderr):
        pytest.skip(f"no package index: {finished.stderr.strip().splitlines()[-1]}")
    assert finished.returncode == 0, finished.stderr
    return tmp_path / "newest"


def test_the_client_works_with_the_newest_tritonclient(newest: Path, root: Path) -> None:
    paths = os.pathsep.join(map(str, (newest, root, root / "client")))
    finished = subprocess.run(
        [sys.executable, "-c", RUN, newest, *(root / "tests/unit/client" / name for name in TESTS)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
