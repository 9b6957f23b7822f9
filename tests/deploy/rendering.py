"""Manifests of the chart, as helm renders them, and the pieces of them that tests look at."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/wan-t2v"
HELM = Path(sys.prefix) / "bin/helm"
DEPLOYMENTS = ("values-cpu", "values-gpu-80", "values-gpu-2x80", "values-gpu-141")
ALL_VALUES = (*DEPLOYMENTS, "ci/everything-values", "ci/hpa-values", "ci/jobs-values")


class UniqueKeys(yaml.SafeLoader):
    """A loader that refuses a key that stands twice in a map, as strict readers of manifests do."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", node.start_mark)
        return dict(super().construct_mapping(node, deep))


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run helm; a missing one is an error, since `make setup-dev` installs it."""
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False)


def template(values: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """Render with a values file and `key=value` settings."""
    options = [part for setting in settings for part in ("--set-json", setting)]
    return helm(
        "template", "wan", str(CHART), "--namespace", "video", "--values", str(CHART / f"{values}.yaml"), *options
    )


def notes(values: str, *settings: str) -> str:
    """The text that an installation prints. A client's dry run needs no cluster."""
    options = [part for setting in settings for part in ("--set-json", setting)]
    file = str(CHART / f"{values}.yaml")
    done = helm("install", "wan", str(CHART), "--namespace", "video", "--dry-run=client", "--values", file, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\nNOTES:\n")[2]


@functools.cache
def rendered(values: str, *settings: str) -> list[dict[str, Any]]:
    """All objects. Not to be changed: they are kept for the next test."""
    done = template(values, *settings)
    assert done.returncode == 0, done.stderr
    return loaded(done.stdout)


def loaded(manifests: str) -> list[dict[str, Any]]:
    """The objects of rendered text. No key may stand twice."""
    return [found for found in yaml.load_all(manifests, UniqueKeys) if found]  # noqa: S506 - a safe loader


def objects(values: str, kind: str, *settings: str) -> list[dict[str, Any]]:
    """Those of one kind."""
    return [found for found in rendered(values, *settings) if found["kind"] == kind]


def pod(values: str, *settings: str, kind: str = "Deployment") -> dict[str, Any]:
    """The pod of the servers' Deployment or of the Job."""
    (found,) = [entry for entry in objects(values, kind, *settings) if not entry["metadata"]["name"].endswith("-jobs")]
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def server(values: str, *settings: str) -> dict[str, Any]:
    """The container of Triton."""
    return named(pod(values, *settings)["containers"], "server")


def named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The entry of a list that has this name."""
    (found,) = [entry for entry in entries if entry["name"] == name]
    return found
