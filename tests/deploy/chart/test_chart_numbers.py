"""Numbers of a values file reach the objects digit by digit, and one that is null does not become 0.

Helm reads each number of a file as a floating-point one. Go writes those from a million on as `3.6e+06`, which Triton
reads as 3. A null, such as an empty line of a file, takes the chart's default away, and arithmetic takes it for 0.
"""

import functools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.rendering import ALL_VALUES, CHART, helm, objects, template

LARGE = 3_600_000
EXPONENT = re.compile(r"\d(?:\.\d+)?e\+\d+")
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
TOLERATION = {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LARGE}


def number_of(schema: dict[str, Any]) -> dict[str, Any] | None:
    """The schema's part about a number, if the value may be one."""
    alternatives = [schema, *schema.get("oneOf", [])]
    return next((kind for kind in alternatives if kind.get("type") in ("integer", "number")), None)


def paths(schema: dict[str, Any], above: str = "") -> list[str]:
    """Every value of the schema that may be a number, such as `drain.waitSeconds`."""
    if number_of(schema):
        return [above]
    parts = schema.get("properties", {}).items()
    return [path for name, part in parts for path in paths(part, f"{above}.{name}".lstrip("."))]


def large(schema: dict[str, Any]) -> Any:
    """Every number of the schema, as large as it allows up to `LARGE`; None for a part without numbers."""
    if number := number_of(schema):
        return min(number.get("maximum", LARGE), LARGE)
    parts = {name: large(part) for name, part in schema.get("properties", {}).items()}
    return {name: part for name, part in parts.items() if part is not None} or None


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = large(SCHEMA)
    values["tolerations"] = [TOLERATION]
    path = tmp_path_factory.mktemp("values") / "large.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def rendered_text(values: str, numbers: Path, *settings: str) -> str:
    """Objects and notes. Tracing and all routes are on, so that no number stands in a part that is left out."""
    tracing = 'monitoring.tracing.url="http://collector:4318/v1/traces"'
    ingress = ("ingress.enabled=true", 'ingress.host="video.example"')
    done = helm(
        "install",
        "wan",
        str(CHART),
        "--dry-run=client",
        *(part for path in (CHART / f"{values}.yaml", numbers) for part in ("--values", str(path))),
        *(part for setting in (tracing, *ingress, *settings) for part in ("--set-json", setting)),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_schema_has_numbers_that_large(numbers: Path) -> None:
    settings = yaml.safe_load(numbers.read_text())
    assert settings["server"]["keepalive"]["timeMs"] == settings["updateStrategy"]["maxSurge"] == LARGE
    assert settings["jobs"]["keepGib"] == LARGE and settings["authProxy"]["port"] == 65535


@pytest.mark.parametrize("values", ALL_VALUES)
def test_no_number_is_written_with_an_exponent(values: str, numbers: Path) -> None:
    lines = [line for line in rendered_text(values, numbers).splitlines() if EXPONENT.search(line)]
    assert not lines


def test_nor_is_the_number_of_fronts_that_are_not_scaled(numbers: Path) -> None:
    text = rendered_text("ci/jobs-values", numbers, "jobs.autoscaling.enabled=false")
    assert not EXPONENT.search(text)


def test_the_numbers_arrive_where_they_are_read(numbers: Path) -> None:
    text = rendered_text("ci/everything-values", numbers) + rendered_text("ci/jobs-values", numbers)
    wanted = (
        f"--grpc-keepalive-time={LARGE}\n",
        f"--grpc-keepalive-timeout={LARGE}\n",
        f"--grpc-max-connection-age={LARGE}\n",
        f"--grpc-http2-min-recv-ping-interval-without-data={LARGE}\n",
        f"--grpc-max-response-pool-size={LARGE}\n",
        f"--exit-timeout-secs={LARGE}\n",
        f"--trace-config=rate={LARGE}\n",
        f'--wait-s, "{LARGE}"]',
        "streamIdleTimeout: 99999s\n",
        f'proxy-read-timeout: "{LARGE}"\n',
        f'threshold: "{LARGE}"\n',
        f"maxSurge: {LARGE}\n",
        f"memory: {LARGE}Gi\n",
        f"sizeLimit: {LARGE}Gi\n",
        f"--keep-gib={LARGE}\n",
        f"--workers={LARGE}\n",
        f"tolerationSeconds: {LARGE}\n",
    )
    assert not [part for part in wanted if part not in text]


def test_parts_of_a_number_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "kept.yaml"
    file.write_text("jobs: {keepDays: 0.5, keepGib: 2500000.25}\nupdateStrategy: {maxSurge: 25%}\n")
    done = helm("template", "wan", str(CHART), "--values", str(CHART / "ci/jobs-values.yaml"), "--values", str(file))
    assert "--keep-days=0.5\n" in done.stdout and "--keep-gib=2500000.25\n" in done.stdout, done.stderr
    assert 'maxSurge: "25%"\n' in done.stdout


# Every part of the chart at once, so that each number is read; scaled by KEDA, or by nobody.
WHOLE = (
    'engine="tensorrt"',
    "plans.job.enabled=true",
    "resources.memoryGib=0",
    "resources.shmGib=0",
    'monitoring.tracing.url="http://collector:4318/v1/traces"',
)
SCALED = {
    "keda": ('autoscaling.type="keda"', "jobs.autoscaling.enabled=true"),
    "none": ('autoscaling.type="none"', "jobs.autoscaling.enabled=false"),
}


def whole_chart(*settings: str) -> subprocess.CompletedProcess[str]:
    files = [part for name in ("everything", "jobs") for part in ("--values", str(CHART / f"ci/{name}-values.yaml"))]
    options = [part for setting in (*WHOLE, *settings) for part in ("--set-json", setting)]
    return helm("install", "wan", str(CHART), "--dry-run=client", *files, *options)


@functools.cache
def lines_of_the_whole_chart(scaled: str) -> frozenset[str]:
    done = whole_chart(*SCALED[scaled])
    assert done.returncode == 0, done.stderr
    return frozenset(done.stdout.splitlines())


@pytest.mark.parametrize("scaled", SCALED)
@pytest.mark.parametrize("path", paths(SCHEMA))
def test_a_number_that_is_null_is_left_out_or_refused_by_name(path: str, scaled: str) -> None:
    done = whole_chart(*SCALED[scaled], f"{path}=null")
    if done.returncode != 0:
        assert f"{path}: not set, accepted: a whole number" in done.stderr, done.stderr
        return
    changed = set(done.stdout.splitlines()) - lines_of_the_whole_chart(scaled)
    empty = re.compile(r"(LAST DEPLOYED: .*|  name: \S+-plans-[0-9a-f]{8}|\s*\w+:( null)?\s*)")
    assert not [line for line in changed if not empty.fullmatch(line)]


def test_a_deployment_without_a_number_of_replicas_is_left_to_another_autoscaler(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("replicas:\njobs:\n  replicas:\n  autoscaling:\n    enabled: false\nautoscaling:\n  type: none\n")
    jobs = str(CHART / "ci/jobs-values.yaml")
    done = helm("template", "wan", str(CHART), "--values", jobs, "--values", str(file))
    assert done.returncode == 0, done.stderr
    deployments = [entry for entry in yaml.safe_load_all(done.stdout) if entry and entry["kind"] == "Deployment"]
    assert len(deployments) == 2 and not [entry for entry in deployments if "replicas" in entry["spec"]]


def test_none_is_a_number_of_replicas_too() -> None:
    (deployment,) = objects("values-cpu", "Deployment", "replicas=0")
    assert deployment["spec"]["replicas"] == 0


@pytest.mark.parametrize("path", ["ingress.readTimeoutSeconds", "authProxy.port", "jobs.workersPerPod"])
def test_a_number_of_a_part_that_is_off_may_be_null(path: str) -> None:
    assert template("values-cpu", f"{path}=null").returncode == 0


@pytest.mark.parametrize("values", ["ci/hpa-values", "ci/everything-values"])
@pytest.mark.parametrize("path", ["minReplicas", "maxReplicas", "targetGenerations", "scaleDownEverySeconds"])
def test_no_autoscaler_has_a_number_that_is_null(values: str, path: str) -> None:
    done = template(values, f"autoscaling.{path}=null")
    assert done.returncode != 0 and f"autoscaling.{path}: not set, accepted: a whole number" in done.stderr
