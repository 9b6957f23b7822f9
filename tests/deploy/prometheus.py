"""Alerts, dashboard, a recorded scrape, and Prometheus' own checker of rules, for the tests of monitoring."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.deploy.rendering import CHART, ROOT

ALERTS = CHART / "files/alerts.yaml"
DASHBOARD = CHART / "files/dashboard.json"
MONITORING = ROOT / "deploy/monitoring"
SCRAPE = Path(__file__).parent / "scrape.txt"
# Triton's docs/user_guide/metrics.md; the recorded server had no GPU.
GPU_METRICS = {
    f"nv_{name}": {"gpu_uuid"}
    for name in (
        "gpu_utilization",
        "gpu_memory_used_bytes",
        "gpu_memory_total_bytes",
        "gpu_power_usage",
        "gpu_power_limit",
        "energy_consumption",
    )
}
# docs/pod-metrics.md of kube-state-metrics, what Prometheus itself says of a target, and the job gateway's.
OTHER_METRICS = {
    "up": set(),
    "wan_t2v_gateway_certificate_expiration_timestamp_seconds": set(),
    "kube_pod_container_status_ready": {"container"},
    "kube_pod_deletion_timestamp": set(),
    "kube_pod_container_status_restarts_total": {"container"},
}
SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
PROMTOOL = shutil.which("promtool", path=f"{Path(sys.prefix) / 'bin'}:/usr/bin:/usr/local/bin")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing: deploy/monitoring/install_promtool.sh"
)


def rules() -> list[dict[str, Any]]:
    """Alerts and recorded series, as they stand in the file."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """The alerts alone."""
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> list[tuple[str, dict[str, str], float]]:
    """Every sample of the recorded scrape: name, labels, value."""
    found = SERIES.findall(SCRAPE.read_text())
    return [(name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for name, labels, value in found]


def labels_of_metrics() -> dict[str, set[str]]:
    """Every metric that there is, with its labels."""
    known: dict[str, set[str]] = {**GPU_METRICS, **OTHER_METRICS}
    for name, labels, _ in recorded():
        known.setdefault(name, set()).update(labels)
    for rule in rules():
        if "record" in rule:
            known[rule["record"]] = set(
                re.findall(r"\w+", re.findall(r"sum by \(([^)]*)\)", rule["expr"] + "sum by ()")[0])
            )
    return known


def parts(expression: str, kind: type) -> list[Any]:
    """The nodes of one kind in an expression's tree. Raises ValueError for what is no PromQL."""
    found: list[Any] = []
    promql_parser.walk(
        promql_parser.parse(expression), lambda node: found.append(node) if isinstance(node, kind) else None
    )
    return found


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it."""
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=600)


def rule_tests() -> list[Path]:
    """The alerts' own tests."""
    return sorted(MONITORING.glob("*_test.yaml"))
