"""The alerts can be evaluated, ask for metrics that exist, and have a runbook."""

import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from tests.deploy.rendering import ROOT, objects
from wan_t2v.serving.metrics import METRICS

EXPORTED = {spec.name for spec in METRICS}
SUFFIXES = ("", "_bucket", "_count", "_sum")


def rules() -> list[dict[str, Any]]:
    (found,) = objects("ci/everything-values", "PrometheusRule")
    return [rule for group in found["spec"]["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    (scaled,) = objects("ci/everything-values", "ScaledObject")
    return [*(rule["expr"] for rule in rules()), scaled["spec"]["triggers"][0]["metadata"]["query"]]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_is_promql_over_metrics_that_the_server_has(expression: str) -> None:
    promql_parser.parse(expression)
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    named = set(re.findall(r"\bwan_t2v[a-z0-9_:]+", expression))
    known = {name + suffix for name in EXPORTED for suffix in SUFFIXES} | recorded
    assert named and named <= known


def test_the_parser_refuses_what_is_no_promql() -> None:
    with pytest.raises(ValueError, match=".+"):
        promql_parser.parse("sum(increase(wan_t2v_steps_total[)")


@pytest.mark.parametrize("alert", [rule for rule in rules() if "alert" in rule], ids=lambda rule: str(rule["alert"]))
def test_every_alert_waits_has_a_severity_and_a_section_in_the_runbook(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert re.fullmatch(r"\d+m", alert["for"])
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in [heading.lower() for heading in headings]


def test_the_pages_name_the_adapters_rule() -> None:
    (hpa,) = objects("ci/hpa-values", "HorizontalPodAutoscaler")
    metric = hpa["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert metric in (ROOT / "docs/kubernetes.md").read_text()
    assert Path(ROOT / "docs/kubernetes.md").exists()
