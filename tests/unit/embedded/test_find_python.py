"""Which Python the environment is made with, on machines made of fakes: their PATH holds nothing but what a test puts there."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

TOOLS = ("bash", "dirname", "mktemp", "rm", "cut", "cat", "grep", "tail", "sed", "touch", "mkdir", "cp", "chmod")


@dataclass
class Machine:
    """Programs on its PATH are scripts of the test."""

    folder: Path
    script: Path

    def put(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env -S bash\n{text}\n")
        path.chmod(0o755)
        return path

    def put_python(self, name: str, version: str, implementation: str = "CPython") -> Path:
        """One that says its version, and makes environments whose pip installs a uv from which nothing is to be had."""
        path = self.folder / name
        return self.put(
            name,
            f'if [ "$1" = -c ]; then echo "{version} {implementation} {path}"; exit; fi\n'
            f'[ "$2" = venv ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "{self.folder}/offline-uv" "$3/bin/uv"\n'
            f'[ "$2" = pip ] && echo "$@" >"{self.folder}/pip-was-asked"; exit 0',
        )

    def find(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.folder), "HOME": str(self.folder / "home")}
        return subprocess.run(
            [self.script, *arguments], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    def found(self, *arguments: str) -> Path:
        finished = self.find(*arguments)
        assert finished.returncode == 0, finished.stderr
        return Path(finished.stdout.removesuffix("\n"))

    def refusal(self, *arguments: str) -> str:
        finished = self.find(*arguments)
        assert (finished.returncode, finished.stdout) == (1, "")
        return finished.stderr


@pytest.fixture
def machine(tmp_path: Path, root: Path) -> Machine:
    made = Machine(tmp_path / "a machine", root / "find_python.sh")
    made.folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (made.folder / tool).symlink_to(found)
    made.put("id", "echo 1000")
    made.put("offline-uv", 'case "$2" in find) exit 1 ;; install) echo "error: no route to host" >&2; exit 1 ;; esac')
    return made


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_the_python3_of_path_is_taken_if_it_can_be_used(version: str, machine: Machine) -> None:
    machine.put_python("python3.12", "3.12")
    assert machine.found() == machine.folder / "python3.12"
    expected = machine.put_python("python3", version)
    assert machine.found() == expected


@pytest.mark.parametrize("version", ["3.10", "3.13", "3.14"])
@pytest.mark.parametrize("name", ["python3.12", "python3.11", "python"])
def test_else_another_one_of_path(name: str, version: str, machine: Machine) -> None:
    machine.put_python("python3", version)
    expected = machine.put_python(name, "3.11")
    assert machine.found() == expected


def test_a_shim_that_runs_nothing_and_another_implementation_are_passed_over(machine: Machine) -> None:
    machine.put("python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    machine.put_python("python3", "3.11", implementation="PyPy")
    expected = machine.put_python("python3.11", "3.11")
    assert machine.found() == expected


def test_pyenvs_are_found_the_newer_first(machine: Machine) -> None:
    machine.put_python("python3", "3.13")
    older = machine.put_python("home/.pyenv/versions/3.11.9/bin/python", "3.11")
    assert machine.found() == older
    assert machine.found() != machine.put_python("home/.pyenv/versions/3.13.0/bin/python", "3.13")
    newer = machine.put_python("home/.pyenv/versions/3.12.4/bin/python", "3.12")
    assert machine.found() == newer


def put_uv(machine: Machine) -> Path:
    """One that has a Python 3.12 as soon as it was told to bring it."""
    brought = machine.put_python("uv's/python3.12", "3.12")
    machine.put(
        "uv",
        f'has="{machine.folder}/has"; case "$1 $2 ${{!#}}" in\n'
        f'"python find 3.12") [ -e "$has" ] && echo "{brought}" ;;\n"python install 3.12") touch "$has" ;;\n'
        "*) exit 1 ;; esac",
    )
    (machine.folder / "has").touch()
    return brought


def test_uvs_are_found(machine: Machine) -> None:
    brought = put_uv(machine)
    assert machine.found() == brought
    machine.put_python("python3", "3.13")
    assert machine.found() == brought


def test_uv_brings_one_where_there_is_none(machine: Machine) -> None:
    machine.put_python("python3", "3.13")
    brought = put_uv(machine)
    (machine.folder / "has").unlink()
    finished = machine.find()
    assert (finished.returncode, finished.stdout) == (0, f"{brought}\n")
    assert "looking for a Python 3.12 on the network, with uv" in finished.stderr


def test_uv_itself_comes_from_the_index_in_the_pinned_version(machine: Machine, root: Path) -> None:
    machine.put_python("python3", "3.13")
    brought = put_uv(machine)
    (machine.folder / "has").unlink()
    shutil.move(machine.folder / "uv", machine.folder / "offline-uv")  # what pip installs here
    assert machine.found() == brought
    (pin,) = [line for line in (root / "constraints.txt").read_text().splitlines() if line.startswith("uv==")]
    assert pin in (machine.folder / "pip-was-asked").read_text()


def test_a_machine_that_has_none_and_gets_none_is_told_what_to_do(machine: Machine) -> None:
    machine.put_python("python3", "3.13")
    told = machine.refusal()
    assert (
        "no Python 3.11 or 3.12 was found (python3 is 3.13), and uv could not bring one: error: no route to host"
        in told
    )
    for remedy in ("apt-get install python3.11", "Debian 13", "uv python install 3.12", "PYTHON=/path/to/python3.12"):
        assert remedy in told


def test_one_without_any_python_is_told_too(machine: Machine) -> None:
    assert "(python3 is missing), and uv is not here and could not be installed" in machine.refusal()


def test_root_gets_debians(machine: Machine) -> None:
    machine.put("id", "echo 0")
    ready = machine.put_python("ready/python3.11", "3.11")
    machine.put(
        "apt-get",
        f'[ "$1" = update ] || case "$*" in *python3.11*) cp "{ready}" "{machine.folder}/python3.11" ;; *) exit 100 ;; esac',
    )
    assert machine.found() == ready
    assert (machine.folder / "python3.11").exists()


@pytest.mark.parametrize(
    ("version", "implementation", "told"), [("3.13", "CPython", "3.13 CPython"), ("3.11", "PyPy", "3.11 PyPy")]
)
def test_one_that_is_named_is_taken_or_refused(version: str, implementation: str, told: str, machine: Machine) -> None:
    machine.put_python("python3", "3.11")
    named = machine.put_python("my python", "3.12")
    assert machine.found(str(named)) == named
    machine.put_python("my python", version, implementation)
    assert f"is {told}; accepted: CPython 3.11 or 3.12" in machine.refusal(str(named))


def test_a_named_one_that_is_not_there_or_does_not_run_is_told(machine: Machine) -> None:
    assert "error: there is no PYTHON=/none" in machine.refusal("/none")
    broken = machine.put("broken", "exit 1")
    assert "is no Python that runs; accepted: CPython 3.11 or 3.12" in machine.refusal(str(broken))


def test_nothing_is_left_in_the_temporary_folder(machine: Machine, tmp_path: Path) -> None:
    machine.put_python("python3", "3.11")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {"PATH": str(machine.folder), "TMPDIR": str(temporary)}
    subprocess.run([machine.script], env=environment, check=True, stdout=subprocess.DEVNULL)
    assert list(temporary.iterdir()) == []
