"""The docs' figures of fuzzing are those of the newest results file."""

import json
from pathlib import Path


def test_the_figures_of_fuzz_are_those_of_its_last_run(root: Path) -> None:
    operating = " ".join((root / "docs/run/operating.md").read_text(encoding="utf-8").split())
    path = max((root / "tests/stress/fuzz/results").glob("*.json"))
    found = json.loads(path.read_text(encoding="utf-8"))
    for told in (
        f"{found['date']}, {found['machine'].replace(', ', ' with ')}, load {found['load']:g}",
        f"(../../tests/stress/fuzz/results/{path.name})",
        f"{found['requests']:,} bad requests of {found['classes']} kinds, {found['inner_calls']:,} calls of inner models",
        f"{found['operators_calls']} of what is the operator's, {found['http_abuses']} abuses of HTTP",
        f"{found['unfair']} wrong, {len(found['restarts'])} restarts, served again within {found['slowest_served_s']:g} s",
        f"{found['gateway_calls']:,} bad calls of {found['gateway_classes']} kinds and {found['gateway_abuses']} abuses of "
        f"the gateway, answered within {found['gateway_slowest_s']:g} s",
    ):
        assert told in operating
