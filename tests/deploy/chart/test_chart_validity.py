"""The chart is one that Helm, Kubernetes and a security checker accept, for every values file."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.rendering import ALL_VALUES, CHART, helm, rendered, template

VERSIONS = ("1.30", "1.34", "1.35", "1.36", "1.37")  # Chart.yaml's oldest, and those up to the newest
# Kinds that come with an operator; their schemas are not Kubernetes' own.
OF_OPERATORS = {
    "PodMonitor",
    "PrometheusRule",
    "ScaledObject",
    "GRPCRoute",
    "HTTPRoute",
    "BackendTLSPolicy",
    "BackendTrafficPolicy",
}
CHECKOV = Path(sys.prefix) / "checkov/bin/checkov"
SKIPPED = {
    "CKV_K8S_11": "no CPU limit: a limit would slow down the encoding of every video; memory is limited",
    "CKV_K8S_15": "images are named by digest or by a version that is not used twice, so `Always` only adds a dependence",
    "CKV_K8S_35": "Triton takes the key on its command line alone, where only the environment can put it",
    "CKV_K8S_40": "1000 is triton-server, to whom the files of the base image belong",
    "CKV_K8S_43": "image.digest is offered, and used in ci/everything-values.yaml; a chart cannot know a digest",
}


@pytest.mark.parametrize("values", ALL_VALUES)
def test_helm_lints_it_strictly(values: str) -> None:
    done = helm("lint", "--strict", str(CHART), "--values", str(CHART / f"{values}.yaml"))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", ALL_VALUES)
def test_kubernetes_takes_every_object(values: str, version: str) -> None:
    """Wrong types and unknown fields are errors."""
    for found in rendered(values):
        if found["kind"] not in OF_OPERATORS:
            kubernetes_validate.validate(found, version, strict=True)


def test_the_oldest_version_that_is_checked_is_the_oldest_that_the_chart_takes() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == f">={VERSIONS[0]}.0-0"


def test_the_validator_finds_an_unknown_field() -> None:
    service = next(found for found in rendered("values-cpu") if found["kind"] == "Service")
    broken = {**service, "spec": {**service["spec"], "selektor": {}}}
    with pytest.raises(kubernetes_validate.ValidationError, match="selektor"):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@pytest.mark.skipif(not CHECKOV.exists(), reason="checkov is not installed (deploy/install_tools.sh)")
def test_checkov_finds_nothing_that_is_not_justified(tmp_path: Path) -> None:
    for values in ALL_VALUES:
        (tmp_path / f"{Path(values).name}.yaml").write_text(template(values).stdout)
    command = [CHECKOV, "--directory", tmp_path, "--framework", "kubernetes", "--skip-download", "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    report = json.loads(done.stdout)
    failed = {check["check_id"]: f"{check['check_name']}: {check['resource']}" for check in failed_checks(report)}
    assert report["summary"]["passed"] > 100
    assert failed.keys() == SKIPPED.keys(), {name: what for name, what in failed.items() if name not in SKIPPED}


def failed_checks(report: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = report["results"]["failed_checks"]
    return found


def test_the_schema_knows_exactly_the_values_that_are_documented() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    compare(values, schema, "")


def compare(values: dict[str, Any], schema: dict[str, Any], path: str) -> None:
    if "properties" not in schema:
        return
    assert schema["additionalProperties"] is False, path
    assert values.keys() == schema["properties"].keys() - {"global"}, path
    for name, value in values.items():
        if isinstance(value, dict):
            compare(value, schema["properties"][name], f"{path}.{name}")


@pytest.mark.parametrize("values", ALL_VALUES)
def test_the_longest_names_fit_where_kubernetes_repeats_them(values: str) -> None:
    """A Job's name becomes a label and a Service's a name of DNS, each of at most 63 characters."""
    long = tuple(f'{name}="{"a" * 46}-{"b" * 80}"' for name in ("fullnameOverride", "nameOverride"))
    for found in rendered(values, *long):
        assert len(found["metadata"]["name"]) <= 63, found["metadata"]["name"]
        pod_labels = found.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})
        for label in (*found["metadata"]["labels"].values(), *pod_labels.values()):
            assert re.fullmatch(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?", label), label


def test_every_object_is_named_for_the_release_and_in_its_namespace() -> None:
    """So that two releases live side by side, also with `helm template | kubectl apply`."""
    for values in ALL_VALUES:
        for found in rendered(values):
            assert found["metadata"]["namespace"] == "video"
            assert found["metadata"]["name"].startswith("wan-wan-t2v")
            assert found["metadata"]["labels"]["app.kubernetes.io/instance"] == "wan"
