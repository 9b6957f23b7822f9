"""Dashboard and alerts ask for what a real server tells, can be evaluated, and every alert says what to do."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from benchmarks.gpu.scale import A14B, GRID, expert_flops
from tests.deploy.prometheus import (
    ALERTS,
    DASHBOARD,
    GPU_METRICS,
    SCRAPE,
    alerts,
    labels_of_metrics,
    needs_promtool,
    parts,
    promtool,
    recorded,
    rule_tests,
    rules,
)
from tests.deploy.rendering import ROOT
from wan_t2v.serving.python_backend.metrics import METRICS
from wan_t2v.shapes import VideoShape

TARGET_LABELS = {
    "job",
    "instance",
    "namespace",
    "pod",
    "endpoint",
    "container",
    "app_kubernetes_io_instance",
}  # given by Prometheus, or by the PodMonitor
CHOSEN = {"$job": ".*", "$instance": ".*", "$step_tflop": "3357", "$rate_tflops": "989"}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Any]:
    """Every query of the dashboard, with values for its variables."""
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in CHOSEN.items():
                expression = expression.replace(name, value)
            yield pytest.param(expression, id=f"{panel['title']}-{target['refId']}")


def rule_expressions() -> Iterator[Any]:
    for rule in rules():
        yield pytest.param(rule["expr"], id=rule.get("alert", rule.get("record")))


def test_the_recorded_scrape_is_of_todays_metrics() -> None:
    """Else record it again: python -m tests.deploy.record_scrape."""
    types = dict(re.findall(r"^# TYPE (wan_t2v_\w+) (\w+)$", SCRAPE.read_text(), re.MULTILINE))
    assert types == {spec.name: spec.kind.lower() for spec in METRICS}
    descriptions = dict(re.findall(r"^# HELP (wan_t2v_\w+) (.*)$", SCRAPE.read_text(), re.MULTILINE))
    assert descriptions == {spec.name: spec.description for spec in METRICS}
    outcomes = {labels["outcome"] for name, labels, _ in recorded() if "outcome" in labels}
    told = next(spec.description for spec in METRICS if spec.name == "wan_t2v_generations_ended_total")
    assert outcomes == set(told.partition("outcome: ")[2].split(", "))


@pytest.mark.parametrize("expression", [*queries(), *rule_expressions()])
def test_an_expression_asks_for_metrics_and_labels_that_exist(expression: str) -> None:
    known = labels_of_metrics()
    selectors = parts(expression, promql_parser.VectorSelector)
    assert selectors
    asked = set()
    for selector in selectors:
        assert selector.name in known, selector.name
        for matcher in selector.matchers.matchers:
            assert matcher.name in known[selector.name] | TARGET_LABELS, (selector.name, matcher.name)
            values = {labels.get(matcher.name, "") for name, labels, _ in recorded() if name == selector.name}
            if matcher.name not in TARGET_LABELS and values:
                for wanted in matcher.value.split("|") if re.fullmatch(r"[\w|]+", matcher.value) else [matcher.value]:
                    assert any(re.fullmatch(wanted, value) for value in values), (selector.name, wanted)
        asked |= known[selector.name] | TARGET_LABELS
    for node in parts(expression, promql_parser.AggregateExpr):
        assert node.modifier is None or set(node.modifier.labels) <= asked | {"reason"}, node.modifier.labels


def test_the_parser_refuses_what_is_no_promql() -> None:
    with pytest.raises(ValueError, match=".+"):
        promql_parser.parse("sum(increase(wan_t2v_steps_total[)")


def test_bounds_that_alerts_ask_for_are_bounds_of_the_histogram() -> None:
    buckets = {spec.name: {f"{bound:g}" for bound in spec.buckets} for spec in METRICS}
    asked = re.findall(r'(wan_t2v_\w+)_bucket\{[^}]*le="([^"]*)"', ALERTS.read_text())
    assert asked and all(bound in buckets[name] for name, bound in asked)


def test_a_full_queue_is_as_long_as_the_configs_say() -> None:
    (queue_full,) = [rule for rule in alerts() if rule["alert"] == "WanT2vQueueFull"]
    configs = [path.read_text() for path in ROOT.glob("model_repository/*/**/*.pbtxt")]
    limits = {found for text in configs for found in re.findall(r'"max_queued", value \{ string_value: "(\d+)"', text)}
    assert {queue_full["expr"].rpartition(">= ")[2]} == limits


def as_input_series() -> list[dict[str, str]]:
    """The recorded scrape as if it were an hour's work, for ten hours; and a GPU."""
    text = SCRAPE.read_text()
    gauges = set(re.findall(r"^# TYPE (\w+) gauge$", text, re.MULTILINE))
    samples = [*recorded(), *((name, {"gpu_uuid": "GPU-1"}, 100.0) for name in GPU_METRICS), ("up", {}, 1.0)]
    found = []
    for name, labels, value in samples:
        told = ",".join(f'{key}="{label}"' for key, label in {**labels, "job": "wan-t2v", "instance": "a"}.items())
        steady = name in gauges or (name in GPU_METRICS and name != "nv_energy_consumption")
        level = 1.0 if name.startswith("wan_t2v_generations_") else value
        values = f"{level}x60" if steady else f"0+{value / 6}x60"
        found.append({"series": f"{name}{{{told}}}", "values": values})
    return found


@needs_promtool
def test_every_query_of_the_dashboard_gives_numbers_on_the_recorded_scrape(tmp_path: Path) -> None:
    """Prometheus' own engine evaluates them; `> -Inf` leaves out what is not a number."""
    wanted = [{"labels": "{}", "value": 1}]
    given = [str(query.values[0]) for query in queries() if "pending_request_count" not in str(query.values[0])]
    checks = [
        {"expr": f"clamp_max(count(({query}) > -Inf), 1)", "eval_time": "600m", "exp_samples": wanted}
        for query in given
    ]
    test = {"interval": "10m", "input_series": as_input_series(), "promql_expr_test": checks}
    file = tmp_path / "dashboard_test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "10m", "tests": [test]}))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_takes_the_rules_and_their_tests_pass() -> None:
    checked = promtool("check", "rules", str(ALERTS))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    done = promtool("test", "rules", *(str(path) for path in rule_tests()))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_takes_the_configuration_on_the_page(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/run/monitoring.md").read_text(), re.DOTALL)
    shutil.copy(ALERTS, tmp_path)
    (tmp_path / "prometheus.yml").write_text(block)
    done = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {scraped["job_name"] for scraped in yaml.safe_load(block)["scrape_configs"]}
    assert set(re.findall(r'job="([^"]*)"', ALERTS.read_text())) == jobs


def test_every_alert_is_tested_loud_and_quiet() -> None:
    seen: dict[str, set[bool]] = {}
    for path in rule_tests():
        for test in yaml.safe_load(path.read_text())["tests"]:
            for expected in test["alert_rule_test"]:
                seen.setdefault(expected["alertname"], set()).add(bool(expected.get("exp_alerts")))
    assert seen == {rule["alert"]: {True, False} for rule in alerts()}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_has_a_severity_a_summary_and_a_section_in_the_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"]
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor == rule["alert"].lower() and rule["alert"] in headings


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    headings = re.findall(r"^#+ (WanT2v\w+)$", (ROOT / "docs/run/monitoring.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in alerts())


def test_the_floor_is_what_the_arithmetic_says() -> None:
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    for option in variables["step_tflop"]["options"]:
        height, width, frames = (int(number) for number in option["text"].split("x"))
        passes = 2 * expert_flops(A14B, GRID.tokens(VideoShape(frames, height, width))).total
        assert float(option["value"]) == round(passes / 1e12), option
        assert f"{option['text']} : {option['value']}" in variables["step_tflop"]["query"]


def test_the_dashboard_has_the_panels_that_a_platform_team_asks_for() -> None:
    titles = {panel["title"] for panel in panels()}
    assert titles >= {
        "Videos per hour",
        "Running and waiting",
        "Estimated wait",
        "Seconds a step, by expert",
        "Seconds a stage",
        "Cancelled per hour",
        "Seconds for nobody",
        "Refused per hour, by reason",
        "GPU busy",
        "GPU memory",
        "Host memory",
        "Share of the physical floor",
    }
    (steps,) = [panel for panel in panels() if panel["title"] == "Seconds a step, by expert"]
    asked = [target["expr"] for target in steps["targets"]]
    assert all("expert" in expression for expression in asked)
    assert {"0.5", "0.95"} <= set(re.findall(r"histogram_quantile\(([\d.]+)", " ".join(asked)))


def test_panels_do_not_overlap_and_use_variables_that_exist() -> None:
    found = dashboard()
    names = {variable["name"] for variable in found["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)\}?", json.dumps(found["panels"]))) - {"1"} <= names
    cells: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        grid = panel["gridPos"]
        own = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not own & cells and grid["x"] + grid["w"] <= 24, panel["title"]
        cells |= own
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
