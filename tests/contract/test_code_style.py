"""Limits that keep the code one can live in."""

import ast
from pathlib import Path

import pytest

PACKAGES = (
    "wan_t2v",
    "export",
    "embedded",
    "client/wan_t2v_client",
    "gateway/wan_t2v_gateway",
    "benchmarks",
    "training",
)
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "common.py", "misc.py"}
MOST_FILES = 14  # of a folder, `__init__.py` not counted
MORE_FILES = {"wan_t2v": 18, "tests/unit/wan_t2v": 18}  # the data's way in one look, and its tests
CODE_OF_TESTS = {"client": "client/wan_t2v_client", "gateway": "gateway/wan_t2v_gateway"}
TESTS_OF_SEVERAL = {
    "embedded/test_find_python.py": "a shell script at the top",
    "gateway/": "jobs go through the whole gateway, over HTTP",
    "wan_t2v/test_mp4_players.py": "what other programs make of a file of wan_t2v/mp4.py",
}


def files(root: Path) -> list[Path]:
    return [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]


def test_no_file_is_too_long_or_named_for_nothing(root: Path) -> None:
    for path in files(root):
        assert path.read_text(encoding="utf-8").count("\n") <= 300, path
        assert path.name not in FORBIDDEN_NAMES, path


def test_functions_are_short(root: Path) -> None:
    lengths = [
        (node.end_lineno - node.lineno + 1, f"{path.name}:{node.name}")
        for path in files(root)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None
    ]
    longest = max(lengths)
    assert longest[0] <= 50, longest
    assert sorted(lengths)[len(lengths) // 2][0] <= 15


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX"])
def test_nothing_is_left_for_later_in_the_code(word: str, root: Path) -> None:
    for path in files(root):
        assert word not in path.read_text(encoding="utf-8"), path


def test_no_folder_holds_too_many_files(root: Path) -> None:
    for package in (*PACKAGES, "tests"):
        for folder in (root / package, *(path for path in (root / package).rglob("*") if path.is_dir())):
            count = sum(path.name != "__init__.py" for path in folder.glob("*.py"))
            name = str(folder.relative_to(root))
            assert count <= MORE_FILES.get(name, MOST_FILES), f"{name} has {count}"


def test_no_unit_test_is_too_long(root: Path) -> None:
    for path in sorted((root / "tests/unit").rglob("*.py")):
        name = str(path.relative_to(root))
        assert path.read_text(encoding="utf-8").count("\n") <= 300, name


def test_every_unit_test_mirrors_a_module(root: Path) -> None:
    """The tests of `x.py` are in `test_x.py`; if they are many, one topic of them in `test_x_topic.py`."""
    for path in sorted((root / "tests/unit").rglob("test_*.py")):
        name = path.relative_to(root / "tests/unit")
        package, *folders = name.parts[:-1]
        subject = path.stem.removeprefix("test_")
        folder = root.joinpath(CODE_OF_TESTS.get(package, package), *folders)
        modules = [module.stem.strip("_") for module in folder.glob("*.py") if module.stem != "__init__"]
        mirrored = any(f"{subject}_".startswith(f"{module}_") for module in modules)
        assert mirrored or str(name).startswith(tuple(TESTS_OF_SEVERAL)), f"{name} mirrors no module"
