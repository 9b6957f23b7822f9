"""The environment's packages are to be had for every Python that is promised, and for no other.

It asks the package index for metadata alone; where there is none the tests are skipped, as the packages' installation
would have failed before them.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

NUMPY_HAS_NO_WHEEL = "numpy==1.26.4 has no usable wheels"


def resolved(version: str, root: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("uv"), "pip", "compile", "pyproject.toml", "client/pyproject.toml"]
    options = ["--all-extras", "-c", "constraints.txt", "--python-version", version, "--no-header", "--no-annotate"]
    # Debian 12's; numpy 1 would be built from source on 3.13, and fail after minutes
    wheels = ["--python-platform", "x86_64-manylinux_2_36", "--only-binary", "numpy", "--quiet", "--system-certs"]
    finished = subprocess.run([*command, *options, *wheels], cwd=root, capture_output=True, text=True)
    if finished.returncode and re.search(r"error sending request|dns error|Failed to fetch", finished.stderr):
        pytest.skip(f"no package index: {finished.stderr.strip().splitlines()[-1]}")
    return finished


def pinned(text: str) -> set[str]:
    """Its lines `name==version`, the names as the index spells them."""
    return {re.sub(r"[-_.]+(?=.*==)", "-", line.lower()) for line in text.splitlines() if "==" in line}


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_the_pinned_packages_are_to_be_had(version: str, root: Path) -> None:
    finished = resolved(version, root)
    assert finished.returncode == 0, finished.stderr
    pins = pinned(finished.stdout)
    assert "numpy==1.26.4" in pins
    new = {
        pin
        for pin in pins - pinned((root / "constraints.txt").read_text())
        if not pin.startswith(("nvidia-", "cuda-", "triton==", "setuptools=="))
    }
    assert not new, "the index would choose their versions, another one each day"


def test_python_3_13_cannot_be_served(root: Path) -> None:
    finished = resolved("3.13", root)
    assert finished.returncode != 0
    assert NUMPY_HAS_NO_WHEEL in finished.stderr


def test_what_is_promised_is_what_can_be_had(root: Path) -> None:
    promised = tomllib.loads((root / "pyproject.toml").read_text())["project"]["requires-python"]
    assert promised == ">=3.11,<3.13"
    script = (root / "find_python.sh").read_text()
    assert set(re.findall(r'"(3\.\d+) CPython', script)) == {"3.11", "3.12"}
    assert "with Python 3.11 or 3.12" in (root / "README.md").read_text()
