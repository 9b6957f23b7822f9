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
