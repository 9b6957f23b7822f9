"""Names, labels and annotations: always strings, and each key once, whatever the operator calls and adds."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.deploy.rendering import ALL_VALUES, CHART, UniqueKeys, helm, loaded, objects, rendered

# Names that Kubernetes takes and YAML reads as something else than a string.
NO_STRINGS = ("123", "true", "null")
NAMES = {"name", "namespace", "serviceAccountName", "claimName", "secretName", "ingressClassName", "image", "key"}
OF_THE_OPERATOR = (
    "plans.existingClaim",
    "checkpoint.existingClaim",
    "resuming.existingClaim",
    "server.adminKey.existingSecret",
    "tls.existingSecret",
    "authProxy.configMap",
    "authProxy.image",
    "ingress.className",
    "ingress.tlsSecret",
    "gateway.backendTls.caConfigMap",
    "autoscaling.prometheusAuthentication",
)


def called(values: str, name: str, *settings: str) -> list[dict[str, Any]]:
    """The objects of a release whose every name is this one."""
    names = (f'nameOverride="{name}"', f'fullnameOverride="{name}"')
    options = [part for setting in (*names, *settings) for part in ("--set-json", setting)]
    file = str(CHART / f"{values}.yaml")
    done = helm("template", name, str(CHART), "--namespace", name, "--values", file, *options)
    assert done.returncode == 0, done.stderr
    return loaded(done.stdout)


def texts(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What must be a string in every object: labels, annotations, selectors and names, each with its path."""
    if isinstance(part, list):
        for index, entry in enumerate(part):
            yield from texts(entry, f"{path}[{index}]")
    if not isinstance(part, dict):
        return
    for key, value in part.items():
        if key in ("labels", "annotations", "matchLabels", "nodeSelector"):
            yield from ((f"{path}.{key}.{name}", entry) for name, entry in (value or {}).items())
        elif key == "selector" and all(not isinstance(entry, dict | list) for entry in value.values()):
            yield from ((f"{path}.selector.{name}", entry) for name, entry in value.items())
        elif key in NAMES and not isinstance(value, dict | list):
            yield f"{path}.{key}", value
        else:
            yield from texts(value, f"{path}.{key}")


@pytest.mark.parametrize("name", NO_STRINGS)
@pytest.mark.parametrize("values", ALL_VALUES)
def test_every_name_and_label_is_a_string_whatever_the_release_is_called(values: str, name: str) -> None:
    found = [entry for manifest in called(values, name) for entry in texts(manifest, manifest["kind"])]
    assert len(found) > 90 and not [path for path, text in found if not isinstance(text, str)]
    assert sum(text == name for _, text in found) > 20


def test_what_the_operator_names_is_a_string_too() -> None:
    settings = [f'{path}="123"' for path in OF_THE_OPERATOR]
    manifests = called("ci/everything-values", "wan", *settings)
    found = [entry for manifest in manifests for entry in texts(manifest, manifest["kind"])]
    assert not [path for path, text in found if not isinstance(text, str)]
    assert sum(text == "123" for _, text in found) >= len(settings)


def test_what_an_object_is_called_by_others_is_its_name() -> None:
    """Quoted or not, the parts fit together."""
    manifests = called("ci/jobs-values", "123")
    names = {(found["kind"], found["metadata"]["name"]) for found in manifests}
    assert {("Deployment", "123"), ("Service", "123"), ("ServiceAccount", "123"), ("Deployment", "123-jobs")} <= names
    (scaled,) = [found for found in manifests if found["kind"] == "ScaledObject"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == "123"
    assert 'app_kubernetes_io_instance="123"' in scaled["spec"]["triggers"][0]["metadata"]["query"]


def test_the_loader_refuses_a_key_that_stands_twice() -> None:
    with pytest.raises(yaml.constructor.ConstructorError, match="the key a stands twice"):
        yaml.load("{b: {a: 1, a: 2}}", UniqueKeys)  # noqa: S506 - a safe loader


@pytest.mark.parametrize("values", ALL_VALUES)
def test_no_key_stands_twice(values: str) -> None:
    assert rendered(values)


INSTANCE, COMPONENT = "app.kubernetes.io/instance", "app.kubernetes.io/component"
VERSION, TEAM = "app.kubernetes.io/version", "team"
EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
NGINX = "nginx.ingress.kubernetes.io"
OWN_LABELS = json.dumps({INSTANCE: "mine", COMPONENT: "mine", VERSION: "mine", TEAM: "mine"})


def metadata(kind: str, *settings: str, values: str = "ci/everything-values") -> dict[str, Any]:
    found: dict[str, Any] = objects(values, kind, *settings)[0]["metadata"]
    return found


def test_an_annotation_of_the_operators_takes_the_place_of_the_charts() -> None:
    """An empty one too."""
    own = json.dumps({f"{NGINX}/proxy-body-size": "8m", f"{NGINX}/proxy-next-upstream": "", "mine": "1"})
    annotations = metadata("Ingress", f"ingress.annotations={own}")["annotations"]
    assert [annotations[f"{NGINX}/{name}"] for name in ("proxy-body-size", "proxy-next-upstream")] == ["8m", ""]
    assert annotations["mine"] == "1" and annotations[f"{NGINX}/backend-protocol"] == "GRPCS"
    own = json.dumps({f"{NGINX}/proxy-buffering": "on"})
    annotations = metadata("Ingress", f"jobs.ingress.annotations={own}", values="ci/jobs-values")["annotations"]
    assert annotations[f"{NGINX}/proxy-buffering"] == "on" and annotations[f"{NGINX}/proxy-body-size"] == "1m"
    (deployment,) = objects("values-cpu", "Deployment", f'podAnnotations={{"{EVICT}":"true"}}')
    assert deployment["spec"]["template"]["metadata"]["annotations"] == {
        "kubectl.kubernetes.io/default-container": "server",
        EVICT: "true",
    }


def test_a_pods_label_of_the_operators_does_not_take_it_from_its_service() -> None:
    (deployment,) = objects("values-cpu", "Deployment", f"podLabels={OWN_LABELS}")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert (labels[VERSION], labels[TEAM]) == ("mine", "mine")
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (service,) = objects("values-cpu", "Service", f"podLabels={OWN_LABELS}")
    assert service["spec"]["selector"].items() <= labels.items()


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("PodMonitor", "monitoring.podMonitor.labels"),
        ("PrometheusRule", "monitoring.rules.labels"),
        ("ConfigMap", "monitoring.dashboard.labels"),
    ],
)
def test_labels_of_the_operators_are_added_to_what_monitoring_reads(kind: str, path: str) -> None:
    labels = metadata(kind, f"{path}={OWN_LABELS}")["labels"]
    assert (labels[VERSION], labels[TEAM], labels[INSTANCE]) == ("mine", "mine", "wan")
