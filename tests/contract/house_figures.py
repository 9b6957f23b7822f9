"""Figures of the tree at a commit, for docs/design/layout.md: python -m tests.contract.house_figures COMMIT ..."""

import ast
import io
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import PurePath

PACKAGES = ("wan_t2v", "export", "embedded", "client", "benchmarks", "training")
LEAST_LINES = 5  # of two functions that count as written twice


def texts(commit: str) -> dict[PurePath, str]:
    """The texts of a commit's Python and Markdown files, by path."""
    archive = subprocess.run(["git", "archive", commit], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        members = [file for file in files if file.isfile() and file.name.endswith((".py", ".md"))]
        return {PurePath(file.name): files.extractfile(file).read().decode() for file in members}  # type: ignore[union-attr]


def lines(tree: Mapping[PurePath, str], *tops: str, suffix: str = ".py") -> int:
    return sum(text.count("\n") for path, text in tree.items() if path.parts[0] in tops and path.suffix == suffix)


def files_per_folder(tree: Mapping[PurePath, str], *tops: str) -> Counter[PurePath]:
    """Python files of each folder; `__init__.py` does not count."""
    kept = [path for path in tree if path.parts[0] in tops and path.suffix == ".py" and path.name != "__init__.py"]
    return Counter(path.parent for path in kept)


def bodies(tree: Mapping[PurePath, str]) -> Iterator[str]:
    """The body of each function that is long enough to count, without its docstring."""
    for path, text in tree.items():
        if path.suffix == ".py" and path.parts[0] in PACKAGES:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    body = node.body[1:] if ast.get_docstring(node) else node.body
                    if body and (body[-1].end_lineno or 0) - body[0].lineno + 1 >= LEAST_LINES:
                        yield renamed("\n".join(map(ast.dump, body)))


def renamed(dump: str) -> str:
    """A dump with variables numbered as they come, so that two functions are alike whatever their names for things."""
    numbers: dict[str, int] = {}
    return re.sub(r"\b(id|arg)='(\w+)'", lambda match: f"{match[1]}={numbers.setdefault(match[2], len(numbers))}", dump)


def figures(commit: str) -> dict[str, str]:
    """Each figure by what it is of."""
    tree = texts(commit)
    code, tests = files_per_folder(tree, *PACKAGES), files_per_folder(tree, "tests")
    fullest = [f"{count} in {folder}" for folder, count in code.most_common(3)]
    readme = tree[PurePath("README.md")]
    return {
        "fullest folders of the packages": ", ".join(fullest),
        "folders of the packages with more than 14 files": str(sum(count > 14 for count in code.values())),
        "folders of the packages": str(len(code)),
        "fullest folder of the tests": "{1} in {0}".format(*tests.most_common(1)[0]),
        "lines of the packages": str(lines(tree, *PACKAGES)),
        "lines of the tests": str(lines(tree, "tests")),
        "longest unit test file, lines": str(
            max(text.count("\n") for path, text in tree.items() if path.parts[:2] == ("tests", "unit"))
        ),
        f"pairs of functions that differ in names at most, {LEAST_LINES} lines or more": str(
            sum(one == other for one, other in combinations(sorted(bodies(tree)), 2))
        ),
        "lines of the README": str(readme.count("\n")),
        "pages in docs": str(sum(path.parts[0] == "docs" for path in tree if path.suffix == ".md")),
    }


def main() -> None:
    """Print one row per figure, one column per commit."""
    columns = [figures(commit) for commit in sys.argv[1:]]
    for name in columns[0]:
        print(f"| {name} | {' | '.join(column[name] for column in columns)} |")


if __name__ == "__main__":
    main()
