"""The chart's alerts and dashboard are the files that tests/deploy/test_monitoring.py tests; what scales it exists."""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.deploy.prometheus import (
    ALERTS,
    DASHBOARD,
    labels_of_metrics,
    needs_promtool,
    parts,
    promtool,
    rule_tests,
    rules,
)
from tests.deploy.rendering import CHART, ROOT, helm, objects, template

EVERYTHING = "ci/everything-values"
JOB, RELEASE = 'job="wan-t2v"', 'namespace="video",app_kubernetes_io_instance="wan"'
PAGE = ROOT / "docs/run/kubernetes.md"


def groups(*settings: str, values: str = EVERYTHING) -> list[dict[str, Any]]:
    (found,) = objects(values, "PrometheusRule", *settings)
    spec: dict[str, Any] = found["spec"]
    assert spec.keys() == {"groups"}
    return list(spec["groups"])


def in_the_chart(*settings: str) -> list[dict[str, Any]]:
    return [rule for group in groups(*settings) for rule in group["rules"]]


def scaling() -> list[str]:
    """What the two autoscalers ask Prometheus: KEDA's query, and the adapter's rule on the page for the HPA."""
    (scaled,) = objects(EVERYTHING, "ScaledObject")
    query = adapter()["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="video"').replace("<<.GroupBy>>", "pod")
    return [scaled["spec"]["triggers"][0]["metadata"]["query"], query]


def adapter() -> dict[str, Any]:
    (block,) = re.findall(r"```yaml\n(rules:.*?)```", PAGE.read_text(), re.DOTALL)
    (rule,) = yaml.safe_load(block)["rules"]
    return dict(rule)


def test_the_charts_rules_are_those_of_the_file_for_the_series_of_the_release() -> None:
    wanted = [
        {**rule, "expr": rule["expr"].replace(JOB, RELEASE)}
        | ({"labels": {**rule["labels"], "team": "video"}} if "alert" in rule else {})
        for rule in rules()
    ]
    assert in_the_chart() == wanted and JOB not in str(wanted)
    assert len([rule for rule in wanted if "alert" in rule]) == 17


def test_there_is_one_copy_of_alerts_and_dashboard() -> None:
    for path in (ALERTS, DASHBOARD):
        assert list((ROOT / "deploy").rglob(path.name)) == [path]


def test_links_lead_to_where_the_runbook_is_read() -> None:
    address = "https://wiki.example/wan-t2v/monitoring#"
    links = {
        rule["annotations"]["runbook_url"]
        for rule in in_the_chart(f'monitoring.rules.runbookUrl="{address}"')
        if "alert" in rule
    }
    assert len(links) == 17 and all(link.startswith(f"{address}want2v") for link in links)


def test_alerts_can_be_left_out_by_name() -> None:
    left_out = {"WanT2vCancelSlow", "WanT2vNotReady", "WanT2vRestarting"}
    kept = groups(f"monitoring.rules.without={json.dumps(sorted(left_out))}")
    names = {rule.get("alert") for group in kept for rule in group["rules"]}
    assert names == {rule.get("alert") for rule in rules()} - left_out
    assert all(group["rules"] for group in kept)


@pytest.mark.parametrize("scaling", ["none", "keda"])
def test_nobody_misses_a_server_where_none_is_wanted(scaling: str) -> None:
    """The first plans are built without pods, for hours; with 0 there is no autoscaler either."""
    for replicas, left_out in (("0", {"WanT2vAbsent"}), ("1", set()), ("null", set())):
        kept = in_the_chart(f'autoscaling.type="{scaling}"', f"replicas={replicas}", "monitoring.rules.without=null")
        assert {rule.get("alert") for rule in kept} == {rule.get("alert") for rule in rules()} - left_out


@needs_promtool
def test_the_alerts_own_tests_pass_with_the_charts_rules(tmp_path: Path) -> None:
    """Labels that are selected by must not be lost on the way; the tests' series carry the release's instead of a job."""
    chart = {"groups": groups("monitoring.rules.enabled=true", values="values-cpu")}
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(chart))
    for path in rule_tests():
        text = path.read_text().replace("../helm/wan-t2v/files/", "").replace(JOB, RELEASE)
        text = text.replace(f'{RELEASE},namespace="n"', RELEASE)
        text = text.replace('namespace="n"', 'namespace="video"').replace("namespace: n,", "namespace: video,")
        (tmp_path / path.name).write_text(
            text.replace("job: wan-t2v", "namespace: video, app_kubernetes_io_instance: wan")
        )
    done = promtool("test", "rules", *(str(tmp_path / path.name) for path in rule_tests()))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_the_file_where_grafana_finds_it() -> None:
    (found,) = [entry for entry in objects(EVERYTHING, "ConfigMap") if entry["metadata"]["name"].endswith("dashboard")]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "Video"}
    ((name, text),) = found["data"].items()
    assert name.endswith(".json") and json.loads(text) == json.loads(DASHBOARD.read_text())
    assert not objects(EVERYTHING, "ConfigMap", "monitoring.dashboard.enabled=false")
    assert not objects("values-cpu", "ConfigMap") and not objects("values-cpu", "PrometheusRule")


@pytest.mark.parametrize("expression", [*scaling(), *(rule["expr"] for rule in in_the_chart())])
def test_what_the_chart_asks_prometheus_for_exists(expression: str) -> None:
    selectors = parts(expression, promql_parser.VectorSelector)
    assert selectors and {selector.name for selector in selectors} <= labels_of_metrics().keys()


def test_the_hpa_asks_for_the_metric_that_the_adapter_is_told_to_make() -> None:
    (hpa,) = objects("ci/hpa-values", "HorizontalPodAutoscaler")
    assert hpa["spec"]["metrics"][0]["pods"]["metric"]["name"] == adapter()["name"]["as"]
    assert parts(adapter()["seriesQuery"], promql_parser.VectorSelector)[0].name == "wan_t2v_generations_in_flight"


def test_without_figures_keda_takes_no_pod_away() -> None:
    """An empty answer counts as zero for KEDA unless it is told otherwise."""
    (scaled,) = objects(EVERYTHING, "ScaledObject")
    assert scaled["spec"]["triggers"][0]["metadata"]["ignoreNullValues"] == "false"
    assert scaled["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"


UNARY = 'placement={"gpus":["80"],"sizes":["480x832x81"],"experts":"bf16","vae":"fp32","doors":"unary"}'


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('autoscaling.type="keda"', "tells no gauges to scale by"),
        ("monitoring.rules.enabled=true", "WanT2vAbsent would never end"),
    ],
)
def test_what_needs_gauges_is_refused_where_nobody_tells_them(setting: str, message: str) -> None:
    done = template("values-gpu-80", UNARY, setting)
    assert done.returncode != 0 and message in done.stderr, done.stderr
    assert template("values-gpu-80", UNARY).returncode == 0
    without = template(
        "values-gpu-80", UNARY, "monitoring.rules.enabled=true", 'monitoring.rules.without=["WanT2vAbsent"]'
    )
    assert without.returncode == 0, without.stderr


def test_the_package_has_the_files_and_not_the_values_of_the_checks(tmp_path: Path) -> None:
    done = helm("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as packed:
        names = packed.getnames()
    assert {f"wan-t2v/files/{path.name}" for path in (ALERTS, DASHBOARD)} <= set(names)
    assert not [name for name in names if "/ci/" in name]
