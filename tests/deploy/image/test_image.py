"""What can be known of the image without building it: the Dockerfile, the context, the locks."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from e2b_dockerfile_utils import DockerfileInstruction, PatternMatcher, parse_dockerfile_ast
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.sbom import components
from tests.deploy.rendering import ROOT

DOCKERFILE = ROOT / "deploy/Dockerfile"
LOCK, TENSORRT = ROOT / "deploy/requirements.lock", ROOT / "deploy/tensorrt.lock"


def instructions() -> list[DockerfileInstruction]:
    return list(parse_dockerfile_ast(DOCKERFILE.read_text()).instructions)


def tracked(*paths: str) -> list[str]:
    """Files of the work tree that git knows or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return [name for name in found if name and (ROOT / name).exists()]


def in_context(names: list[str]) -> set[str]:
    ignored = PatternMatcher(
        [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    )
    return {name for name in names if not ignored.matches(name)}


def pins(lock: Path) -> dict[str, str]:
    return {component["name"]: component["version"] for component in components(lock.read_text())}


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([Path(sys.prefix) / "bin/hadolint", DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    copied = [found for found in instructions() if found.name == "COPY" and not any("from" in f for f in found.flags)]
    sources = [source for found in copied for source in found.args[:-1]]
    assert len(sources) >= 8
    context = in_context(tracked())
    for source in sources:
        path = ROOT / source
        assert path.exists(), source
        wanted = {source} if path.is_file() else {name for name in context if name.startswith(f"{source}/")}
        assert wanted and wanted <= context, source


def test_the_context_holds_the_repositorys_own_files_and_no_weights() -> None:
    """Of the model repository what git tracks; of checkpoints wan-mini alone."""
    everything = [str(path.relative_to(ROOT)) for path in (ROOT / "model_repository").rglob("*") if path.is_file()]
    assert in_context(everything) == {name for name in tracked("model_repository") if "/configs/" not in name} | {
        name for name in everything if re.search(r"/configs/[^/]+\.pbtxt$", name)
    }
    weights = {name for name in in_context(tracked()) if name.endswith((".safetensors", ".onnx", ".plan"))}
    assert weights and all(name.startswith("training/wan-mini/") for name in weights)
    assert not in_context(
        ["checkpoints/a/b.safetensors", "build/x", "wan_t2v/__pycache__/a.pyc", ".git/config", ".venv/x"]
    )


def test_it_is_the_pinned_release_and_does_not_run_as_root() -> None:
    found = instructions()
    assert "tritonserver:26.07-py3" in next(i for i in found if i.name == "ARG").args[0]
    last_user = [i for i in found if i.name == "USER"][-1]
    assert last_user.args == ["1000:1000"] and found.index(last_user) > max(
        index for index, i in enumerate(found) if i.name == "RUN"
    )
    labels = " ".join(" ".join(i.args) for i in found if i.name == "LABEL")
    assert "org.opencontainers.image.licenses" in labels and "GPL" in labels  # PyAV brings x264


def test_everything_is_installed_from_locks_and_nothing_is_compiled() -> None:
    runs = " ".join(" ".join(i.args) for i in instructions() if i.name == "RUN")
    assert "apt-get" not in runs
    for install in re.findall(r"pip3 .*?(?=&&|$)", runs):
        assert "--require-hashes" in install or "--no-index" in install or " wheel " in install, install
        assert "--no-deps" in install


@pytest.mark.parametrize("lock", [LOCK, TENSORRT], ids=lambda lock: lock.name)
def test_every_package_of_a_lock_has_a_version_and_hashes(lock: Path) -> None:
    statements = re.findall(r"^[A-Za-z0-9][^\n]*", lock.read_text(), re.MULTILINE)
    assert len(statements) == len(components(lock.read_text())) > 1
    for component in components(lock.read_text()):
        assert component["externalReferences"][0]["hashes"], component["name"]


def test_the_lock_holds_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    written = [line.partition("#")[0].strip() for line in (ROOT / "deploy/requirements.in").read_text().splitlines()]
    wanted = [*project["dependencies"], *extras["export"], *extras["fp8"], *extras["tracing"], *filter(None, written)]
    locked = {canonicalize_name(name): version for name, version in pins(LOCK).items()}
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in locked and requirement.specifier.contains(locked[name]), requirement


def test_the_lock_differs_from_the_tested_versions_only_in_cudas_packages() -> None:
    """The tests run with torch's CPU build; what that has no use for is in no constraint."""
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    tested = {canonicalize_name(name): version for name, version in constraints.items()}
    for name, version in pins(LOCK).items():
        if canonicalize_name(name) in tested:
            assert tested[canonicalize_name(name)] == version, name
        else:
            assert name.startswith(("nvidia-", "cuda-")) or name in ("triton", "setuptools"), name


def test_tensorrts_module_and_bindings_are_of_one_version() -> None:
    assert len(set(pins(TENSORRT).values())) == 1
