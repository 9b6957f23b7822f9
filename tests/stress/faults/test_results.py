"""The docs' figures of faults are those of the newest results file."""

import json
from pathlib import Path


def test_the_figures_of_faults_are_those_of_their_last_whole_run(root: Path) -> None:
    operating = " ".join((root / "docs/run/operating.md").read_text(encoding="utf-8").split())
    path = max((root / "tests/stress/faults/results").glob("*.json"))
    run = json.loads(path.read_text(encoding="utf-8"))
    assert run["faults"] == len(run["outcomes"])
    assert run["survived"] == sum(not outcome["faults"] for outcome in run["outcomes"])
    for figure in (
        f"{run['date']}, {run['machine'].replace(', ', ' with ')}, load {run['load']:g}",
        f"(../../tests/stress/faults/results/{path.name})",
        f"{run['faults']} faults, {run['survived']} survived",
    ):
        assert figure in operating


def test_no_folder_of_the_machine_is_in_it(root: Path) -> None:
    for path in (root / "tests/stress/faults/results").glob("*.json"):
        assert "/tmp/" not in path.read_text(encoding="utf-8")
