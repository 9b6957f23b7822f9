"""Videos as jobs in the chart: a front, a worker beside each Triton, and nothing of it unless asked for."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from wan_t2v_gateway.__main__ import _parser

from tests.deploy.rendering import ALL_VALUES, ROOT, named, objects, pod, rendered, template

JOBS = "ci/jobs-values"
NAME = "wan-wan-t2v-jobs"
EXTRA_OF = {"traces_url": "tracing", "mark": "marking"}  # the gateway's options that need packages of an extra


def front(*settings: str) -> dict[str, Any]:
    (found,) = [entry for entry in objects(JOBS, "Deployment", *settings) if entry["metadata"]["name"] == NAME]
    return found


def containers(*settings: str) -> dict[str, dict[str, Any]]:
    (serving,) = front(*settings)["spec"]["template"]["spec"]["containers"]
    return {"front": serving, "worker": named(pod(JOBS, *settings)["initContainers"], "jobs-worker")}


def test_it_is_off_unless_asked_for() -> None:
    for values in ALL_VALUES:
        if values != JOBS:
            assert "jobs" not in str([found["metadata"]["name"] for found in rendered(values)])
            assert "jobs-worker" not in str(pod(values))


def test_the_front_makes_nothing_and_a_worker_asks_its_own_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands are ones that the gateway understands."""
    for name, container in containers().items():
        for entry in container["env"]:
            monkeypatch.setenv(entry["name"], entry.get("value", "postgresql://somewhere"))
        options = _parser().parse_args(container["args"])
        assert (options.host, options.port, options.redirects) == ("0.0.0.0", 8080, 300)  # noqa: S104
        assert (options.database_url, options.store_url) == ("postgresql://somewhere", "s3://videos")
        assert (options.keep_days, options.keep_gib) == (30, 20_000_000)
        assert options.webhook_host == ["hooks.internal"]
        assert options.traces_url == "http://collector.observability:4318/v1/traces"
        if name == "front":
            assert (options.url, options.workers, options.resumes) == ("wan-wan-t2v:8001", 0, False)
        else:
            assert (options.url, options.workers, options.resumes) == ("127.0.0.1:8001", 2, True)


def test_the_command_is_whole_without_values_that_an_older_chart_did_not_have() -> None:
    """As `helm upgrade --reuse-values` renders it; null removes a value."""
    for container in containers("jobs.keepDays=null", "jobs.keepGib=null").values():
        options = _parser().parse_args(container["args"])
        assert (options.keep_days, options.keep_gib) == (7, 20)
        assert not [argument for argument in container["args"] if argument.endswith("=")]


def test_the_worker_ends_after_the_server_it_works_for() -> None:
    assert containers()["worker"]["restartPolicy"] == "Always"


def test_readiness_of_a_server_does_not_depend_on_its_worker_or_the_database() -> None:
    parts = containers()
    assert "readinessProbe" not in parts["worker"] and "startupProbe" not in parts["worker"]
    assert parts["worker"]["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert "--wait-for-database" in parts["worker"]["args"]
    assert parts["front"]["readinessProbe"]["httpGet"]["path"] == "/healthz"
    assert "--wait-for-database" not in parts["front"]["args"]


def test_a_front_has_the_time_to_stop_that_it_takes() -> None:
    from wan_t2v_gateway.generation.uploads import _STOP_LIMIT_S as FOR_UPLOADS_S
    from wan_t2v_gateway.http_server import _STOP_LIMIT_S as FOR_FILES_S
    from wan_t2v_gateway.queue.workers import _STOP_LIMIT_S as FOR_JOBS_S

    waited_s = containers()["front"]["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace_s = front()["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert waited_s > 0 and FOR_FILES_S >= 20
    assert grace_s > waited_s + FOR_FILES_S + FOR_UPLOADS_S + FOR_JOBS_S


@pytest.mark.parametrize("which", ["front", "worker"])
def test_secrets_are_referred_to_and_the_profile_is_restricted(which: str) -> None:
    container = containers()[which]
    reference = named(container["env"], "WAN_T2V_GATEWAY_DATABASE_URL")["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "wan-postgres", "key": "url"}
    assert container["envFrom"] == [{"secretRef": {"name": "wan-bucket"}}]
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] and context["capabilities"] == {"drop": ["ALL"]}
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]  # noqa: S108


def test_both_ways_lead_to_the_front_and_not_to_its_metrics() -> None:
    (service,) = [entry for entry in objects(JOBS, "Service") if entry["metadata"]["name"] == NAME]
    assert service["spec"]["selector"]["app.kubernetes.io/component"] == "jobs"
    (route,) = objects(JOBS, "HTTPRoute")
    (ingress,) = objects(JOBS, "Ingress")
    (rule,) = route["spec"]["rules"]
    paths = [match["path"]["value"] for match in rule["matches"]]
    assert paths == [path["path"] for path in ingress["spec"]["rules"][0]["http"]["paths"]]
    assert "/v1" in paths and not {"/metrics", "/docs"} & {*paths} and rule["timeouts"] == {"request": "0s"}
    assert ("/", "Exact") in {(match["path"]["value"], match["path"]["type"]) for match in rule["matches"]}


def test_servers_are_scaled_by_jobs_that_wait_and_fronts_by_their_use() -> None:
    (scaled,) = objects(JOBS, "ScaledObject")
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    assert len(queries) == 2 and 'status=~"queued|in_progress"' in queries[1]
    (hpa,) = objects(JOBS, "HorizontalPodAutoscaler")
    assert hpa["spec"]["scaleTargetRef"]["name"] == NAME and "replicas" not in front()["spec"]


def test_the_query_asks_for_what_the_gateway_tells() -> None:
    from wan_t2v_gateway.metrics import Records

    (scaled,) = objects(JOBS, "ScaledObject")
    (asked,) = re.findall(r"\((wan_t2v_gateway_\w+)\{", scaled["spec"]["triggers"][1]["metadata"]["query"])
    told = Records({}, ("local",), 0.0, paused=False, stored_bytes=0).lines()
    assert any(line.startswith(f'{asked}{{status="queued",class=') for line in told)


def test_the_network_policy_lets_the_front_reach_servers_and_what_is_named() -> None:
    (policy,) = [entry for entry in objects(JOBS, "NetworkPolicy") if entry["metadata"]["name"] == NAME]
    ports = [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]
    assert ports == [8001, 53, 53, 5432, 443]
    assert [rule["ports"][0]["port"] for rule in policy["spec"]["ingress"]] == [8080, 8001]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('jobs.image=""', "jobs.image: name the gateway's image"),
        ('jobs.storeUrl=""', "jobs.storeUrl: name the bucket"),
        ('jobs.databaseSecret.name=""', "jobs.databaseSecret.name: name the Secret"),
        ('jobs.ingress.host=""', "jobs.ingress.host: name the host"),
        ("jobs.route.parentRefs=[]", "jobs.route.parentRefs: name the Gateway"),
        ('tls={"enabled":true,"existingSecret":"s"}', "let authProxy speak TLS"),
        ("jobs.workersPerPod=0", "/jobs/workersPerPod"),
        ('jobs.tracesUrl="collector:4318"', "/jobs/tracesUrl"),
        ("jobs.keepDays=0", "/jobs/keepDays"),
        ("jobs.keepGib=0", "/jobs/keepGib"),
        ("jobs.replicas=0", "jobs.replicas: 0, accepted with jobs.autoscaling: 1 or more"),
        ("jobs.replicas=9", "jobs.replicas: 9 is more than jobs.autoscaling.maxReplicas, 8"),
        ('server.restrictedProtocols=["inference"]', "the workers send no administrator's key"),
        ('authProxy={"enabled":true,"image":"proxy","port":8080}', "authProxy.port: 8080 belongs to another"),
    ],
)
def test_what_is_missing_is_named(setting: str, message: str) -> None:
    done = template(JOBS, setting)
    assert done.returncode != 0 and message in done.stderr, done.stderr


def test_fronts_that_are_not_scaled_may_be_none() -> None:
    assert front("jobs.autoscaling.enabled=false", "jobs.replicas=0")["spec"]["replicas"] == 0


def test_a_server_without_the_streaming_endpoint_cannot_have_workers() -> None:
    jobs = 'jobs={"enabled":true,"image":"gateway","storeUrl":"s3://videos","databaseSecret":{"name":"wan-postgres"}}'
    for doors, code in (("unary", 1), ("both", 0), ("stream", 0)):
        placement = f'placement={{"gpus":["141"],"sizes":["480x832x81"],"doors":"{doors}"}}'
        done = template("values-gpu-141", jobs, placement)
        assert (done.returncode != 0) == bool(code), done.stderr
        assert ("jobs: the workers call the streaming endpoint" in done.stderr) == bool(code), done.stderr


def test_the_gateways_image_is_built_from_what_there_is() -> None:
    """Nobody built it yet: no Docker was at hand."""
    path = ROOT / "deploy/gateway.Dockerfile"
    done = subprocess.run([Path(sys.prefix) / "bin/hadolint", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    copied = re.findall(r"^COPY (\S+) ", path.read_text(), re.MULTILINE)
    kept = (ROOT / "deploy/gateway.Dockerfile.dockerignore").read_text().split("\n")
    assert len(copied) == 3 and all((ROOT / name).exists() and f"!{name}" in kept for name in copied)
    scripts = (ROOT / "gateway/pyproject.toml").read_text().split("[project.scripts]")[1]
    (entry,) = re.findall(r'^ENTRYPOINT \["(\S+)"\]$', path.read_text(), re.MULTILINE)
    assert f"{entry} = " in scripts


def test_the_gateways_image_has_what_the_charts_options_need() -> None:
    """Without an option's packages the gateway ends at once, and its pods crash in a loop."""
    extras = tomllib.loads((ROOT / "gateway/pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRA_OF.values()) == extras.keys() - {"test"}, "an extra without an option in EXTRA_OF"
    options = [_parser().parse_args(container["args"]) for container in containers().values()]
    needed = {extra for name, extra in EXTRA_OF.items() if any(getattr(given, name) for given in options)}
    dockerfile = (ROOT / "deploy/gateway.Dockerfile").read_text()
    (installed,) = re.findall(
        r"pip install --constraint /src/constraints\.txt .*/src/gateway(?:\[([\w,]+)\])?", dockerfile
    )
    assert needed and needed <= set(installed.split(","))
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert {package for extra in needed for package in extras[extra]} <= set(pins)
