"""Dashboard and alerts ask for what a real server tells, can be evaluated, and every alert says what to do."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from benchmarks.gpu_scale import A14B, GRID, expert_flops
from tests.deploy.rendering import ROOT
from wan_t2v.serving.metrics import METRICS
from wan_t2v.shapes import VideoShape

MONITORING = ROOT / "deploy/monitoring"
SCRAPE = Path(__file__).parent / "scrape.txt"
TARGET_LABELS = {
    "job",
    "instance",
    "namespace",
    "pod",
    "app_kubernetes_io_instance",
}  # given by Prometheus, or by the PodMonitor
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
# docs/pod-metrics.md of kube-state-metrics, and what Prometheus itself says of a target.
OTHER_METRICS = {
    "up": set(),
    "kube_pod_container_status_ready": {"container"},
    "kube_pod_container_status_restarts_total": {"container"},
}
CHOSEN = {"$job": ".*", "$instance": ".*", "$step_tflop": "3357", "$rate_tflops": "989"}
SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
PROMTOOL = shutil.which("promtool", path=f"{Path(sys.prefix) / 'bin'}:/usr/bin:/usr/local/bin")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing: deploy/monitoring/install_promtool.sh"
)


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
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


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def rule_expressions() -> Iterator[Any]:
    for rule in rules():
        yield pytest.param(rule["expr"], id=rule.get("alert", rule.get("record")))


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
    """The nodes of one kind in an expression's tree."""
    found: list[Any] = []
    promql_parser.walk(
        promql_parser.parse(expression), lambda node: found.append(node) if isinstance(node, kind) else None
    )
    return found


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
    asked = re.findall(r'(wan_t2v_\w+)_bucket\{[^}]*le="([^"]*)"', (MONITORING / "alerts.yaml").read_text())
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
    checked = promtool("check", "rules", str(MONITORING / "alerts.yaml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    done = promtool("test", "rules", *(str(path) for path in rule_tests()))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_alerts_work_with_a_selector_of_the_release_too(tmp_path: Path) -> None:
    """What the chart puts in place of the job's name: labels that are selected by must not be lost on the way."""
    for path in (MONITORING / "alerts.yaml", *rule_tests()):
        text = path.read_text().replace('job="wan-t2v"', 'app_kubernetes_io_instance="wan"')
        (tmp_path / path.name).write_text(text.replace("job: wan-t2v", "app_kubernetes_io_instance: wan"))
    done = promtool("test", "rules", *(str(tmp_path / path.name) for path in rule_tests()))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_takes_the_configuration_on_the_page(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/monitoring.md").read_text(), re.DOTALL)
    shutil.copy(MONITORING / "alerts.yaml", tmp_path)
    (tmp_path / "prometheus.yml").write_text(block)
    done = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {scraped["job_name"] for scraped in yaml.safe_load(block)["scrape_configs"]}
    assert set(re.findall(r'job="([^"]*)"', (MONITORING / "alerts.yaml").read_text())) == jobs


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=600)


def rule_tests() -> list[Path]:
    return sorted(MONITORING.glob("*_test.yaml"))


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
    headings = re.findall(r"^#+ (WanT2v\w+)$", (ROOT / "docs/monitoring.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in alerts())


def test_the_floor_is_what_the_arithmetic_says() -> None:
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    for option in variables["step_tflop"]["options"]:
        height, width, frames = (int(number) for number in option["text"].split("x"))
        passes = 2 * expert_flops(A14B, GRID.tokens(VideoShape(frames, height, width))).total
        assert float(option["value"]) == round(passes / 1e12), option
        assert f"{option['text']} : {option['value']}" in variables["step_tflop"]["query"]


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
