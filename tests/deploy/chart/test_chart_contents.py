"""What the rendered objects promise: probes, drain, security, memory, scaling."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.rendering import ALL_VALUES, CHART, DEPLOYMENTS, ROOT, named, objects, pod, rendered, server
from wan_t2v.operate.model_control import RESTRICTED
from wan_t2v.serving.resume.resume import VARIABLE

GOLDEN = Path(__file__).parent / "golden"


def what_matters(values: str) -> dict[str, Any]:
    """The parts of the pods that a change must not touch unseen."""
    spec, container = pod(values), server(values)
    found = {
        "terminationGracePeriodSeconds": spec["terminationGracePeriodSeconds"],
        "podSecurityContext": spec["securityContext"],
        "automountServiceAccountToken": spec["automountServiceAccountToken"],
        "shm": named(spec["volumes"], "shm")["emptyDir"],
        "repository": {
            key: named(spec["initContainers"], "repository")[key] for key in ("command", "args", "resources")
        },
        "server": {
            key: container[key]
            for key in (
                "command",
                "args",
                "resources",
                "securityContext",
                "startupProbe",
                "readinessProbe",
                "livenessProbe",
                "lifecycle",
                "volumeMounts",
            )
        },
    }
    if objects(values, "Job"):
        (job,) = pod(values, kind="Job")["containers"]
        found["plans"] = {key: job[key] for key in ("command", "args", "resources", "securityContext")}
    return found


@pytest.mark.parametrize("values", DEPLOYMENTS)
def test_what_matters_is_as_written_down(values: str) -> None:
    """UPDATE_GOLDEN=1 writes it down anew; the change is then seen in the diff."""
    path = GOLDEN / f"{values}.yaml"
    found = what_matters(values)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(yaml.safe_dump(found, sort_keys=False, width=120))
    assert found == yaml.safe_load(path.read_text())


def containers(values: str) -> list[dict[str, Any]]:
    kinds = ["Deployment", *(["Job"] if objects(values, "Job") else [])]
    pods = [pod(values, kind=kind) for kind in kinds]
    return [container for spec in pods for container in (*spec.get("initContainers", []), *spec["containers"])]


@pytest.mark.parametrize("values", ALL_VALUES)
def test_every_container_is_of_the_restricted_profile(values: str) -> None:
    for container in containers(values):
        context = container["securityContext"]
        assert context["runAsNonRoot"] and context["readOnlyRootFilesystem"], container["name"]
        assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"], container["name"]
    assert pod(values)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(values)["automountServiceAccountToken"] is False
    assert objects(values, "ServiceAccount")[0]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("settings", [(), ("server.exitTimeoutSeconds=600",)])
@pytest.mark.parametrize("values", ALL_VALUES)
def test_the_grace_period_outlasts_the_drain_and_tritons_exit(values: str, settings: tuple[str, ...]) -> None:
    container = server(values, *settings)
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:4] == ["python3", "-m", "wan_t2v.operate", "drain"]
    wait = int(command[command.index("--wait-s") + 1])
    exit_limit = next(int(a.partition("=")[2]) for a in container["args"] if a.startswith("--exit-timeout-secs="))
    grace = pod(values, *settings)["terminationGracePeriodSeconds"]
    assert grace >= wait + exit_limit + 30
    deployment = objects(values, "Deployment", *settings)[0]
    start = container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"]
    # the pod that is replaced drains; then the init container reads all plans to hash them, and the server to load them
    assert deployment["spec"]["progressDeadlineSeconds"] > grace + 2 * start


@pytest.mark.parametrize("values", ALL_VALUES)
def test_the_probes_ask_the_projects_own_command_and_end_before_kubernetes_ends_them(values: str) -> None:
    asked = {"startupProbe": "ready", "readinessProbe": "ready", "livenessProbe": "live"}
    for name, question in asked.items():
        probe = server(values)[name]
        command = probe["exec"]["command"]
        assert command[:5] == ["python3", "-m", "wan_t2v.operate", "probe", question]
        assert command[command.index("--url") + 1] == "http://127.0.0.1:8000"
        assert float(command[command.index("--timeout-s") + 1]) < probe["timeoutSeconds"]
    liveness = server(values)["livenessProbe"]
    # a server that hangs holds its videos for ever, and one that never started has none: their drain must not keep it
    for probe in (server(values)["startupProbe"], liveness):
        assert 30 < probe["terminationGracePeriodSeconds"] < pod(values)["terminationGracePeriodSeconds"]
    assert liveness["failureThreshold"] * liveness["periodSeconds"] >= 60  # a repair takes seconds


@pytest.mark.parametrize("values", ALL_VALUES)
def test_the_commands_of_probes_and_drain_are_understood(values: str, tmp_path: Path) -> None:
    """Where no server runs they say so; a wrong option would end in exit code 2."""
    container = server(values)
    probes = [container[name]["exec"]["command"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    for command in (*probes, container["lifecycle"]["preStop"]["exec"]["command"]):
        ran = [sys.executable, *command[1:], "--run-directory", str(tmp_path / "none")]
        done = subprocess.run(ran, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1 and "run directory" in done.stderr, done.stderr


@pytest.mark.parametrize("values", ALL_VALUES)
def test_what_is_written_at_run_time_is_a_volume(values: str) -> None:
    mounts = {mount["mountPath"]: mount for mount in server(values)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(values)["volumes"]}
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"  # noqa: S108
    for path in ("/tmp", "/run/wan-t2v"):  # noqa: S108
        assert "emptyDir" in volumes[mounts[path]["name"]] and not mounts[path].get("readOnly")
    assert mounts["/repository"]["readOnly"] is True
    environment = {entry["name"]: entry.get("value") for entry in server(values)["env"]}
    assert environment["WAN_T2V_RUN_DIR"] == "/run/wan-t2v"


@pytest.mark.parametrize("values", DEPLOYMENTS)
def test_shared_memory_fits_into_the_pods_memory(values: str) -> None:
    shm = named(pod(values)["volumes"], "shm")["emptyDir"]["sizeLimit"]
    memory = server(values)["resources"]["limits"]["memory"]
    assert int(shm.removesuffix("Gi")) * 2 < int(memory.removesuffix("Gi"))


@pytest.mark.parametrize(
    "values", [values for values in ALL_VALUES if not {"cpu", "hpa", "jobs"} & {*values.replace("/", "-").split("-")}]
)
def test_gpus_are_asked_for_by_count_and_product(values: str) -> None:
    settings = yaml.safe_load((CHART / f"{values}.yaml").read_text())
    count = str(len(settings["placement"]["gpus"]))
    assert server(values)["resources"]["limits"]["nvidia.com/gpu"] == count
    assert named(pod(values)["initContainers"], "repository")["resources"]["limits"]["nvidia.com/gpu"] == count
    terms = pod(values)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] == settings["gpu"]["products"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod(values)["tolerations"]


def test_the_small_model_asks_for_no_gpu_no_volume_and_no_tolerations() -> None:
    assert "nvidia" not in json.dumps(rendered("values-cpu"))
    assert not objects("values-cpu", "PersistentVolumeClaim") and not objects("values-cpu", "Job")
    assert "--model-config-name=cpu" in server("values-cpu")["args"]


@pytest.mark.parametrize("values", ALL_VALUES)
def test_control_and_shared_memory_need_the_key_of_a_secret(values: str) -> None:
    arguments = server(values)["args"]
    for option in ("--grpc-restricted-protocol=", "--http-restricted-api="):
        (restricted,) = [argument for argument in arguments if argument.startswith(option)]
        protocols, _, key = restricted.partition("=")[2].partition(":")
        assert set(protocols.split(",")) == set(RESTRICTED)
        assert key == "admin-key=$(WAN_T2V_ADMIN_KEY)"
    reference = named(server(values)["env"], "WAN_T2V_ADMIN_KEY")["valueFrom"]["secretKeyRef"]
    made = {secret["metadata"]["name"] for secret in objects(values, "Secret")}
    assert reference["name"] in made | {"wan-admin"} and reference["key"] == "key"


def test_scaling_down_is_slow_and_one_pod_at_a_time() -> None:
    (hpa,) = objects("ci/hpa-values", "HorizontalPodAutoscaler")
    (keda,) = objects("ci/everything-values", "ScaledObject")
    behaviours = hpa["spec"]["behavior"], keda["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    for behaviour in behaviours:
        assert behaviour["scaleDown"]["stabilizationWindowSeconds"] >= 900
        assert [policy["value"] for policy in behaviour["scaleDown"]["policies"]] == [1]
    for values in ("ci/hpa-values", "ci/everything-values"):
        assert "replicas" not in objects(values, "Deployment")[0]["spec"]  # else each upgrade would reset them


def test_behind_tls_or_a_proxy_nothing_listens_in_the_open() -> None:
    arguments = server("ci/everything-values")["args"]
    assert "--http-address=127.0.0.1" in arguments and "--grpc-address=127.0.0.1" in arguments
    assert "--metrics-address=0.0.0.0" in arguments, "else Triton tells metrics where HTTP is, and nobody can read them"
    (service,) = objects("ci/everything-values", "Service")
    assert {port["name"]: port["targetPort"] for port in service["spec"]["ports"]} == {
        "grpc": 9001,
        "metrics": "metrics",
    }
    proxy = named(pod("ci/everything-values")["initContainers"], "auth-proxy")
    assert proxy["restartPolicy"] == "Always"  # a sidecar ends after the server, which may still be streaming
    encrypted = server("values-cpu", 'tls={"enabled":true,"existingSecret":"s","clientAuth":true}')["args"]
    assert {"--grpc-use-ssl=true", "--grpc-use-ssl-mutual=true", "--http-address=127.0.0.1"} <= set(encrypted)
    assert "--grpc-address=127.0.0.1" not in encrypted and "--metrics-address=0.0.0.0" in encrypted


def test_the_proxy_gets_its_configuration_its_secrets_and_the_certificate() -> None:
    proxy = named(pod("ci/everything-values")["initContainers"], "auth-proxy")
    mounts = {mount["mountPath"]: mount["name"] for mount in proxy["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod("ci/everything-values")["volumes"]}
    assert volumes[mounts["/config"]]["configMap"] == {"name": "proxy"}
    assert volumes[mounts["/tls"]]["secret"]["secretName"] == "wan-tls"
    assert "emptyDir" in volumes[mounts["/tmp"]]  # noqa: S108 - a read-only root needs it
    assert named(proxy["env"], "CLIENT_SECRET")["valueFrom"]["secretKeyRef"]["name"] == "oidc"


def test_generations_under_way_are_kept_where_a_volume_is_named() -> None:
    container = server("ci/everything-values")
    mount = named(container["volumeMounts"], "generations")
    assert named(container["env"], VARIABLE)["value"] == mount["mountPath"] and not mount.get("readOnly")
    volume = named(pod("ci/everything-values")["volumes"], "generations")
    assert volume["persistentVolumeClaim"] == {"claimName": "wan-generations"}
    assert VARIABLE not in {entry["name"] for entry in server("values-cpu")["env"]}


def test_traces_go_where_both_triton_and_the_models_are_told() -> None:
    container = server("ci/everything-values")
    url = named(container["env"], "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")["value"]
    assert {"--trace-config=mode=opentelemetry", f"--trace-config=opentelemetry,url={url}"} <= set(container["args"])
    plain = server("values-cpu")
    assert not [argument for argument in plain["args"] if argument.startswith("--trace-config")]
    assert not [entry for entry in plain["env"] if entry["name"].startswith("OTEL")]


def test_other_affinities_leave_the_kind_of_gpu_as_it_is() -> None:
    affinity = pod("ci/everything-values")["affinity"]
    assert affinity.keys() == {"nodeAffinity", "podAntiAffinity"}


def test_a_node_is_not_taken_away_under_a_video() -> None:
    for values in ALL_VALUES:
        annotations = objects(values, "Deployment")[0]["spec"]["template"]["metadata"]["annotations"]
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        assert objects(values, "PodDisruptionBudget")[0]["spec"]["maxUnavailable"] == 1
