"""The commands of the rendered manifests do what Kubernetes expects of them, with a real server.

Init container, server, probes and preStop hook run word for word as `helm template` writes them, but for what a pod
gives a container and this machine does not:

* a path below a volume's mount is that path below a folder of the test (/repository, /run/wan-t2v, /tmp, /plans);
* a container port is a free port on loopback;
* the working directory, /opt/wan-t2v in the image, is the repository's root, and `python3` this environment's;
* the key of the Secret is one of the test's;
* tritonserver is told where the wheel keeps what the image has at its default places, and not told what only the
  image's newer one knows (`container.NEWER`);
* its shared memory has a prefix of the test's, since other servers have theirs in the same /dev/shm.

values-cpu.yaml runs whole. Of the GPU deployments, whose server needs a GPU, it is held that probes and drain are the same.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from embedded.options import ServerOptions
from embedded.ports import free_ports
from embedded.server import Server, running_server
from tests.deploy.image.container import LOOPBACK, STOP_LIMIT_S, Container
from tests.deploy.rendering import ALL_VALUES, DEPLOYMENTS, named, pod, server
from tests.server.calls import ENDPOINTS, LONG, SMALL, in_background, inputs, samples, streamed
from tests.server.conftest import START_LIMIT_S
from tests.waiting import wait_until
from wan_t2v.operate.processes import stub_pids

pytestmark = pytest.mark.server
KEY = "a-key"
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
VICTIM = "mp4_encoder"
AGE_MS = 1000


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory, exported: Path) -> dict[str, Path]:
    """The pod's volumes, empty but for the graphs, which the init container would take a minute to export."""
    folder = tmp_path_factory.mktemp("pod")
    found = {name: folder / name for name in ("repository", "run", "tmp")}
    for path in found.values():
        path.mkdir()
    shutil.copytree(exported, found["tmp"] / "export")
    return found


@pytest.fixture(scope="module")
def repository(volumes: dict[str, Path]) -> Path:
    """The model repository that the init container leaves."""
    init = Container(named(pod("values-cpu")["initContainers"], "repository"), volumes)
    done = init.ran([*init.manifest["command"], *init.manifest["args"]], timeout_s=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"{volumes['repository']} can be served\n")
    return volumes["repository"]


@pytest.fixture
def container(repository: Path, volumes: dict[str, Path]) -> Container:
    """The server's container, not yet started."""
    ports = dict(zip(("http", "grpc", "metrics"), free_ports(3, LOOPBACK), strict=True))
    return Container(server("values-cpu"), volumes, ports, {"WAN_T2V_ADMIN_KEY": KEY})


class Unsupervised(Server):
    """A container's own process: nobody keeps it but kubelet."""

    @property
    def pid(self) -> int:
        return self.supervisor_pid


def has_failed(process: subprocess.Popen[bytes], log: Path) -> bool:
    return process.poll() is not None or "failed to start" in log.read_text()


def ready(container: Container, process: subprocess.Popen[bytes], log: Path) -> Server:
    """Ask the startup probe until it says yes, within its own budget.

    Another server may have taken a port in the meantime: tritonserver then says so, and may hang at its end.
    """
    probe = container.manifest["startupProbe"]
    limit_s = probe["periodSeconds"] * probe["failureThreshold"]
    wait_until(lambda: has_failed(process, log) or container.says_yes("startupProbe"), limit_s)
    assert not has_failed(process, log), log.read_text()[-2000:]
    http, grpc, metrics = (f"{LOOPBACK}:{container.ports[name]}" for name in ("http", "grpc", "metrics"))
    run = Path(container.environment()["WAN_T2V_RUN_DIR"])
    return Unsupervised(grpc, f"http://{http}", f"http://{metrics}/metrics", process.pid, run, log)


def fails_often_enough(container: Container, probe: str) -> bool:
    """Whether kubelet would act on it: the period between two looks changes nothing here and is left out."""
    return not any(container.says_yes(probe) for _ in range(container.manifest[probe]["failureThreshold"]))


def test_a_pods_life(container: Container, tmp_path: Path) -> None:
    """One pod for all of it: a start costs more than each of these."""
    assert not any(container.says_yes(probe) for probe in PROBES), "before there is a server"
    log = tmp_path / "server.log"
    with container.running(log) as process:
        running = ready(container, process, log)
        assert all(container.says_yes(probe) for probe in PROBES)
        control_needs_the_key(running)
        a_drain_ends_with_the_running_video(container, running)
        clear_the_drain(container)
        a_dead_process_that_nobody_repairs_fails_the_liveness_probe(container, running)
        kubelet_stops(container, process)
    younger = server("values-cpu", f"server.keepalive.maxConnectionAgeMs={AGE_MS}")
    restarted = replace(container, manifest=younger)  # it finds its volumes as they were
    with restarted.running(log) as process:
        running = ready(restarted, process, log)
        assert all(restarted.says_yes(probe) for probe in PROBES)
        a_connection_is_renewed_and_no_call_ends_with_it(running)


def connections(running: Server) -> set[int]:
    """This process's own ports of its gRPC connections to the server."""
    port = int(running.grpc_url.rpartition(":")[2])
    found = psutil.Process().net_connections("tcp")
    return {held.laddr.port for held in found if held.raddr and held.raddr.port == port}


def a_connection_is_renewed_and_no_call_ends_with_it(running: Server) -> None:
    """Else a client would stay with a pod that drains."""
    with tritonclient.grpc.InferenceServerClient(running.grpc_url) as client:
        assert client.is_server_live()
        first = connections(running)
        began = time.monotonic()
        answer = client.infer("text_to_video", inputs(LONG))
        assert time.monotonic() - began > AGE_MS / 1000 and len(answer.as_numpy("video")[0])
        wait_until(lambda: client.is_server_live() and not connections(running) & first)


def control_needs_the_key(running: Server) -> None:
    with tritonclient.grpc.InferenceServerClient(running.grpc_url) as client:
        with pytest.raises(InferenceServerException, match="This protocol is restricted"):
            client.get_model_repository_index()
        index = client.get_model_repository_index(headers={"triton-grpc-protocol-admin-key": KEY})
    assert {model.state for model in index.models} == {"READY"}


def a_drain_ends_with_the_running_video(container: Container, running: Server) -> None:
    with ThreadPoolExecutor(1) as pool:
        video = in_background(pool, "text_to_video_stream", running, **LONG)
        wait_until(lambda: samples(running)["wan_t2v_generations_in_flight"] == 1)
        hook = container.started(container.manifest["lifecycle"]["preStop"]["exec"]["command"])
        wait_until(lambda: not container.says_yes("readinessProbe"))
        assert fails_often_enough(container, "readinessProbe"), "the pod leaves the Service"
        assert container.says_yes("livenessProbe"), "and is not restarted under its video"
        refused = {name: str(call(running, SMALL)) for name, call in ENDPOINTS.items()}
        assert all("takes no new work; try again, at another server" in told for told in refused.values()), refused
        assert refused["text_to_video"].startswith("StatusCode.UNAVAILABLE")
        assert not video.done() and hook.poll() is None, "new ones are refused while the video runs"
        told, complaint = hook.communicate(timeout=240)
        assert hook.returncode == 0 and told.endswith("empty: the server can be stopped\n"), complaint
        assert isinstance(video.result(timeout=1), bytes), "it was answered before the hook returned"
    assert container.says_yes("livenessProbe")


def clear_the_drain(container: Container) -> None:
    assert container.ran(["python3", "-m", "wan_t2v.operate", "undrain"], timeout_s=60).returncode == 0
    assert container.says_yes("readinessProbe")


def a_dead_process_that_nobody_repairs_fails_the_liveness_probe(container: Container, running: Server) -> None:
    """In a pod there is no supervisor, and Triton 2.51 keeps calling such a server ready."""
    for victim in stub_pids(running.pid)[VICTIM]:
        os.kill(victim, signal.SIGKILL)
    assert fails_often_enough(container, "livenessProbe") and not container.says_yes("readinessProbe")
    done = container.ran(container.manifest["livenessProbe"]["exec"]["command"], timeout_s=60)
    assert f"{VICTIM} has 0 of its" in done.stderr, "kubelet puts it into the pod's events"


def kubelet_stops(container: Container, process: subprocess.Popen[bytes]) -> None:
    """The hook, then SIGTERM, within the probe's own grace period."""
    limit_s = container.manifest["livenessProbe"]["terminationGracePeriodSeconds"]
    hook = container.ran(container.manifest["lifecycle"]["preStop"]["exec"]["command"], timeout_s=limit_s)
    assert hook.returncode == 0, hook.stderr
    process.terminate()
    process.wait(min(limit_s, STOP_LIMIT_S))


def test_a_process_that_is_repaired_in_time_restarts_nothing(
    repository: Path, volumes: dict[str, Path], tmp_path: Path
) -> None:
    """With the embedded server, whose supervisor repairs; it is stopped for a while so that the probe sees the death."""
    with running_server(
        ServerOptions(start_limit_s=START_LIMIT_S, repository=repository, log=tmp_path / "server.log")
    ) as running:
        http = {"http": int(running.http_url.rpartition(":")[2])}
        container = Container(server("values-cpu"), {**volumes, "run": running.run_directory}, http, {})
        assert all(container.says_yes(probe) for probe in PROBES)
        probe = container.manifest["livenessProbe"]
        os.kill(running.supervisor_pid, signal.SIGSTOP)
        for victim in stub_pids(running.pid)[VICTIM]:
            os.kill(victim, signal.SIGKILL)
        assert not container.says_yes("livenessProbe")
        os.kill(running.supervisor_pid, signal.SIGCONT)
        left_s = (probe["failureThreshold"] - 2) * probe["periodSeconds"]  # one look failed, the last would be too many
        wait_until(lambda: container.says_yes("livenessProbe"), left_s)
        assert isinstance(streamed(running, SMALL), bytes)


@pytest.mark.parametrize("values", ALL_VALUES)
def test_every_deployment_has_these_probes_and_this_drain(values: str) -> None:
    ours, theirs = server("values-cpu"), server(values)
    for probe in PROBES:
        assert theirs[probe]["exec"] == ours[probe]["exec"], probe
    commands = [found["lifecycle"]["preStop"]["exec"]["command"] for found in (ours, theirs)]
    assert len({tuple(command[: command.index("--wait-s")]) for command in commands}) == 1
    assert all(len(command) == command.index("--wait-s") + 2 for command in commands)
    assert theirs["command"] == ours["command"]


@pytest.fixture
def gpu_volumes(tmp_path: Path) -> Iterator[dict[str, Path]]:
    found = {name: tmp_path / name for name in ("repository", "tmp", "plans", "checkpoint")}
    for path in found.values():
        path.mkdir()
    yield found


def told_in_one_line(container: Container) -> str:
    """Run what must fail; the pod's status takes the end of its log."""
    done = container.ran([*container.manifest["command"], *container.manifest["args"]], timeout_s=120)
    assert done.returncode == 1 and container.manifest["terminationMessagePolicy"] == "FallbackToLogsOnError"
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def plan_set_of(container: Container) -> Path:
    arguments = container.manifest["args"]
    return Path(container.here(arguments[arguments.index("--plan-set") + 1]))


@pytest.mark.parametrize("values", DEPLOYMENTS[1:])
def test_a_volume_without_plans_is_told_with_the_remedy(values: str, gpu_volumes: dict[str, Path]) -> None:
    init = Container(named(pod(values)["initContainers"], "repository"), gpu_volumes)
    line = told_in_one_line(init)
    assert f"{plan_set_of(init)} holds no whole set of plans" in line
    assert "The chart's Job builds it, see its log: `kubectl logs job/...`" in line and "none is" in line
    assert not list(gpu_volumes["repository"].rglob("*.plan"))


def test_a_set_that_was_damaged_is_told_with_the_remedy(gpu_volumes: dict[str, Path]) -> None:
    init = Container(named(pod("values-gpu-141")["initContainers"], "repository"), gpu_volumes)
    folder = plan_set_of(init)
    plan = folder / "model_repository/text_encoder/1/model.plan"
    plan.parent.mkdir(parents=True)
    plan.write_bytes(b"cut short")
    listing = folder / "plan_set.json"
    listing.write_text(json.dumps({"files": {"text_encoder/1/model.plan": "0" * 64}}))
    line = told_in_one_line(init)
    assert f"{plan} changed since its set was built. Remove {listing} and run the Job again." in line


def test_a_node_that_cannot_run_the_plans_is_told(gpu_volumes: dict[str, Path]) -> None:
    """Here neither TensorRT nor a GPU is found; with both, tests/deploy/image/test_image_programs.py says what is compared."""
    from tests.deploy.image.test_image_programs import plan_set

    init = Container(named(pod("values-gpu-141")["initContainers"], "repository"), gpu_volumes)
    plan_set(plan_set_of(init))
    assert "In Kubernetes the chart's Job builds the set for this image and GPU." in told_in_one_line(init)


def test_a_volume_without_a_checkpoint_is_told_with_the_remedy(gpu_volumes: dict[str, Path]) -> None:
    (job,) = pod("values-gpu-80", kind="Job")["containers"]
    line = told_in_one_line(Container(job, gpu_volumes))
    assert str(gpu_volumes["checkpoint"]) in line
    assert "Put Wan2.2-T2V-A14B-Diffusers on the volume of checkpoint.existingClaim, at checkpoint.path." in line


def test_only_what_the_manifest_defines_is_put_in_its_place() -> None:
    manifest = {
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "run", "mountPath": "/tmp/run"}],  # noqa: S108
        "ports": [{"name": "http", "containerPort": 8000}],
        "env": [{"name": "WHERE", "value": "/tmp/run"}],
    }
    container = Container(manifest, {"tmp": Path("/a/tmp"), "run": Path("/b")}, {"http": 9}, {"KEY": "k"})
    given = ["--x=/tmp/run/y", "/tmp", "/other/tmp", "/tmpfile", "http://127.0.0.1:8000", "80000", "k=$(KEY):$(WHERE)"]
    here = ["--x=/b/y", "/a/tmp", "/other/tmp", "/tmpfile", "http://127.0.0.1:9", "80000", "k=k:/b"]
    assert [container.here(text) for text in given] == here
    assert container.environment() == {"WHERE": "/b", "KEY": "k"}
