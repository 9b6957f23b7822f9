"""perf_analyzer is run again where it asked too late, and only there."""

import sys
from pathlib import Path

import pytest

from benchmarks.load import perf_analyzer

LATE = "Request concurrency: 2, failed to find the requested model version"


def program(folder: Path, *outputs: tuple[str, int]) -> list[str]:
    """A program that prints these texts and ends with these codes, one per run."""
    runs = folder / "runs"
    code = (
        "import pathlib, sys\n"
        f"runs = pathlib.Path({str(runs)!r})\n"
        "number = len(runs.read_text()) if runs.exists() else 0\n"
        "runs.write_text('x' * (number + 1))\n"
        f"text, status = {list(outputs)!r}[number]\n"
        "print(text)\n"
        "sys.exit(status)\n"
    )
    return [sys.executable, "-c", code]


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_analyzer, "_link_libraries", lambda folder: folder)
    monkeypatch.setattr(perf_analyzer, "read_requests", lambda export: [])
    monkeypatch.setattr(perf_analyzer, "figures", lambda requests: {"requests": 2})


def test_one_that_asked_too_late_is_run_again(tmp_path: Path) -> None:
    command = program(tmp_path, (LATE, 99), (LATE, 99), ("measured", 0))
    assert perf_analyzer._measure(command, tmp_path / "out") == {"requests": 2}
    assert (tmp_path / "runs").read_text() == "xxx"


@pytest.mark.parametrize(
    ("outputs", "runs"), [([("cannot connect", 99)], 1), ([(LATE, 99)] * perf_analyzer.TRIES, perf_analyzer.TRIES)]
)
def test_another_failure_ends_it_and_so_does_one_too_many(
    outputs: list[tuple[str, int]], runs: int, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="perf_analyzer ended with exit code 99"):
        perf_analyzer._measure(program(tmp_path, *outputs), tmp_path / "out")
    assert (tmp_path / "runs").read_text() == "x" * runs
