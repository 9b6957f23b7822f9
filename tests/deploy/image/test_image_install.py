"""The image's install steps in an empty environment, as far as they go without Docker and without CUDA's gigabytes.

The Python is the one that runs the tests, not the image's 3.12: locks name the hashes of every file of a version.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.image.test_image import LOCK, in_context, instructions, tracked
from tests.deploy.rendering import ROOT

# Enough for the models that need no torch.
PACKAGES = (
    "setuptools",
    "numpy",
    "tokenizers",
    "ftfy",
    "wcwidth",
    "av",
    "onnxruntime",
    "flatbuffers",
    "packaging",
    "protobuf",
)
MODULES = (
    "wan_t2v.serving.models.prepare, wan_t2v.serving.models.graph, wan_t2v.serving.models.mp4_encoder, wan_t2v.operate"
)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `docker build` would be sent, without the checkpoint."""
    folder = tmp_path_factory.mktemp("context")
    for name in in_context([name for name in tracked() if not name.startswith("training/")]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def environment(folder: Path) -> Path:
    """An empty environment without pip, made as the Dockerfile makes it."""
    (made,) = [i for i in instructions() if i.name == "RUN" and "-m venv" in " ".join(i.args)]
    options = re.search(r"python3 -m venv (.*) /opt/venv", " ".join(made.args))
    assert options is not None
    subprocess.run([sys.executable, "-m", "venv", *options[1].split(), folder], check=True)
    return folder / "bin/python"


def install_options(lock: str) -> list[str]:
    """The options with which the Dockerfile installs a lock."""
    text = " ".join(" ".join(i.args) for i in instructions() if i.name == "RUN")
    found = re.search(rf"install ([^&]*?) --requirement /tmp/locks/{lock}", text.replace("\\", " "))
    assert found is not None
    return found[1].split()


def pip(python: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def part_of_the_lock(folder: Path) -> Path:
    """The statements of some packages."""
    statements = re.findall(r"^([A-Za-z0-9._-]+)(==.*?)(?=^[A-Za-z0-9]|\Z)", LOCK.read_text(), re.MULTILINE | re.DOTALL)
    chosen = {name: f"{name}{rest}" for name, rest in statements if name in PACKAGES}
    assert chosen.keys() == set(PACKAGES)
    path = folder / "requirements.lock"
    path.write_text("".join(chosen.values()))
    return path


def test_the_wheel_is_built_from_the_context_and_serves_from_an_empty_environment(
    context: Path, tmp_path: Path
) -> None:
    python = environment(tmp_path / "venv")
    pip(python, "install", *install_options("requirements.lock"), "--requirement", str(part_of_the_lock(tmp_path)))
    source = tmp_path / "src"
    source.mkdir()
    shutil.copy(context / "pyproject.toml", source)
    shutil.copytree(context / "wan_t2v", source / "wan_t2v")
    pip(python, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path / "wheels"), str(source))
    (wheel,) = (tmp_path / "wheels").glob("wan_t2v-*.whl")
    pip(python, "install", "--no-deps", "--no-index", str(wheel))
    code = f"import {MODULES}, wan_t2v; print(wan_t2v.__file__)"
    done = subprocess.run([python, "-c", code], cwd=context / "export", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "venv") in done.stdout
    programs = subprocess.run(
        [sys.executable, "-m", "deploy.image.build_plans", "--help"],
        cwd=context,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--into" in programs.stdout


def test_a_wrong_hash_stops_the_installation(tmp_path: Path) -> None:
    lock = tmp_path / "wrong.lock"
    lock.write_text(f"wcwidth==0.9.4 --hash=sha256:{'0' * 64}\n")
    python = environment(tmp_path / "venv")
    with pytest.raises(AssertionError, match="(?i)hash"):
        pip(python, "install", *install_options("requirements.lock"), "--requirement", str(lock))
