"""Whatever a path holds, Triton's processes are started with paths that a shell leaves as they are, or not at all."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded import folder
from embedded.errors import ServerError
from embedded.folder import ServerFolder, check_repository, temporary_folder
from embedded.options import ServerOptions, command_line
from embedded.server import running_server
from embedded.wheel import installed_wheel

ODD = ["a b", "it's", 'a"b', "$HOME", "`id`", "a;b", "a&b", "a|b", "(a)", "<a>", "a*b", "a?b", "[a]", "{a,b}", "a\nb"]
ODD += ["a\tb", "a\\b", "a#b", "!a", "~a", "a:b", "a\u00a0b", "\udcff", "größe", "日本"]
PLAIN = ["plain", "a@b%c+d=e,f.g-h_i", "x" * 200]


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """What TMPDIR is read from anew."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path


def use(name: str, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = temporary / name
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    return path


@pytest.mark.parametrize("name", ODD)
def test_a_folder_for_temporary_files_that_cannot_work_is_refused_before_anything_starts(
    name: str, temporary: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    path = use(name, temporary, monkeypatch)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    message = "TMPDIR=.* cannot be used: .*set TMPDIR to such a folder"
    with pytest.raises(ServerError, match=message), running_server(ServerOptions(repository=root / "model_repository")):
        pass
    assert list(path.iterdir()) == []


@pytest.mark.parametrize("name", PLAIN)
def test_one_that_works_is_taken(name: str, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = use(name, temporary, monkeypatch)
    assert temporary_folder() == path
    # what bash makes of the path, unquoted as Triton leaves it
    command = ["bash", "-c", f"printf '%s\\n' {path}/stub"]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout == f"{path}/stub\n"


def test_no_folder_for_temporary_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(folder.tempfile, "gettempdir", fail)
    with pytest.raises(ServerError, match="set TMPDIR to one"):
        temporary_folder()


@pytest.mark.parametrize("name", [*ODD, *PLAIN])
def test_no_part_of_the_repositorys_path_reaches_triton(name: str, temporary: Path, tmp_path_factory) -> None:
    repository = temporary / name / "models"
    repository.mkdir(parents=True)
    own = tmp_path_factory.mktemp("own")
    for _ in range(2):  # a server that died is started again in the same folder
        linked = ServerFolder.link(own, installed_wheel(), repository=repository)
    assert linked.models.resolve() == repository.resolve()
    command = command_line(ServerOptions(repository=repository), installed_wheel(), linked, shm_prefix="x")
    assert not [part for part in command if name in part]
    assert all(path.is_relative_to(own) for path in (linked.backends, linked.checks, *linked.libraries))


def test_the_libraries_are_found_by_links_in_the_loaders_order(tmp_path: Path, root: Path) -> None:
    wheel = installed_wheel()
    linked = ServerFolder.link(tmp_path, wheel, repository=root)
    assert [path.resolve() for path in linked.libraries] == [path.resolve() for path in wheel.library_folders()]
    assert os.pathsep not in "".join(map(str, linked.libraries))


@pytest.mark.parametrize("content", [None, "a file", "an empty folder"])
def test_a_repository_that_is_none_is_told_with_what_is_accepted(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a repository"
    if content == "a file":
        path.touch()
    elif content:
        path.mkdir()
    with pytest.raises(ServerError, match=r"REPOSITORY='.*a repository' .*accepted: the model repository"):
        check_repository(path)


def test_a_repository_that_cannot_be_looked_at_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"REPOSITORY='.*nnn' cannot be read \(File name too long\); choose another"):
        check_repository(tmp_path / ("n" * 300))
