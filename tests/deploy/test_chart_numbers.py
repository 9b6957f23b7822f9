"""Numbers of a values file reach the objects digit by digit.

Helm reads each number of a file as a floating-point one. Go writes those from a million on as `3.6e+06`, which Triton
reads as 3.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.rendering import ALL_VALUES, CHART, helm

LARGE = 3_600_000
EXPONENT = re.compile(r"\d(?:\.\d+)?e\+\d+")
TOLERATION = {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LARGE}


def large(schema: dict[str, Any]) -> Any:
    """Every number of the schema, as large as it allows up to `LARGE`; None for a part without numbers."""
    alternatives = [schema, *schema.get("oneOf", [])]
    if number := next((kind for kind in alternatives if kind.get("type") in ("integer", "number")), None):
        return min(number.get("maximum", LARGE), LARGE)
    parts = {name: large(part) for name, part in schema.get("properties", {}).items()}
    return {name: part for name, part in parts.items() if part is not None} or None


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = large(json.loads((CHART / "values.schema.json").read_text()))
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
        f"streamIdleTimeout: {LARGE}s\n",
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
