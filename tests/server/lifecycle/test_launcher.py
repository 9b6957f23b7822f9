"""The embedded server starts with a clear failure or not at all, repairs itself, and leaves nothing behind."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException
from wan_t2v_client import ClientError, Connection, TextToVideo

from embedded.cleanup import FOLDER_PREFIX
from embedded.errors import ServerError
from embedded.options import ServerOptions
from embedded.server import Server, running_server
from tests.child_process import child_process
from tests.server.calls import ENDPOINTS, LONG, in_background, operate, probe, samples
from tests.server.conftest import START_LIMIT_S
from tests.server.lifecycle.looks import count, repaired, shared_memory_of
from tests.waiting import wait_until
from wan_t2v.operate.processes import stub_pids

SMALL = {"num_frames": 1, "height": 16, "width": 16, "num_inference_steps": 4}


def test_a_missing_graph_stops_the_start_and_names_the_command(options: ServerOptions) -> None:
    (options.repository / "low_noise_expert/1/model.onnx").unlink()
    message = r"low_noise_expert/1/model.onnx is missing. Run `make export`"
    alone = replace(options, models=("low_noise_expert",))
    with pytest.raises(ServerError, match=message), running_server(alone):
        pass


def test_a_port_in_use_is_told_before_anything_starts(options: ServerOptions) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = f"HTTP_PORT={port} cannot be used on 127.0.0.1"
        with pytest.raises(ServerError, match=message), running_server(replace(options, http_port=port)):
            pass
    assert not options.log.exists()


ODD = 'it\'s $HOME; `id` "größe" & | > x\n'


def test_a_path_that_a_shell_reads_and_a_proxy_in_the_environment_harm_nothing(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher, the models, the client and the probes: nobody asks the proxy, at which nobody listens."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    odd = shutil.copytree(repository, tmp_path / ODD / "models", ignore=shutil.ignore_patterns("__pycache__"))
    events: list[dict[str, Any]] = []
    options = ServerOptions(start_limit_s=START_LIMIT_S, repository=odd, log=tmp_path / ODD / "server.log")
    with running_server(options, on_event=events.append) as server:
        assert probe(server, "ready") == (0, "") and probe(server, "live") == (0, "")
        with TextToVideo(Connection(server.grpc_url)) as client:
            expected = client.generate("x", seed=1, **SMALL).video
            assert expected == client.generate_unary("x", seed=1, **SMALL).video
            os.kill(min(stub_pids(server.pid)["mp4_encoder"]), signal.SIGKILL)
            wait_until(lambda: repaired(events, "mp4_encoder") and works(client, expected), limit_s=120)
        assert operate(server, "drain", "--wait-s", "60").wait(60) == 0
        assert set(stub_pids(server.pid)) == {path.parent.parent.name for path in odd.glob("*/1/model.py")}


STATES: dict[str, Callable[[Any], bool]] = {
    "the supervisor runs": lambda processes: bool(processes),
    "tritonserver runs": lambda processes: "tritonserver" in names(processes),
    "a model is being loaded": lambda processes: stubs_among(processes) > 0,
    "most models are being loaded": lambda processes: stubs_among(processes) > 6,
}


def names(processes: list[psutil.Process]) -> list[str]:
    """Those of the processes that still live."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(process.name())
    return found


def stubs_among(processes: list[psutil.Process]) -> int:
    return sum(name.startswith("triton_python_b") for name in names(processes))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_is_stopped_at_once_at_whatever_moment(number: int, light: ServerOptions, root: Path) -> None:
    for moment, reached in STATES.items():
        with serving(light, root) as started:
            top = psutil.Process(started.pid)
            wait_until(lambda reached=reached, top=top: reached(descendants(top)), limit_s=120)
            processes = descendants(top)
            started.send_signal(number)
            _, errors = started.communicate(timeout=60)
        assert started.returncode == 0 and errors.endswith("stopped before it was ready\n"), (moment, errors)
        assert "Traceback" not in errors and "ready: gRPC" not in errors, moment
        assert not any(alive(process) for process in processes), moment
        supervisor = processes[0].pid
        assert shared_memory_of(supervisor) == [], moment
        assert not list(Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}{supervisor}-*")), moment


def descendants(top: psutil.Process) -> list[psutil.Process]:
    """Parents before their children; those that ended meanwhile are left out."""
    found = []
    for process in top.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.name()
            found.append(process)
    return found


@contextlib.contextmanager
def serving(options: ServerOptions, root: Path) -> Iterator[subprocess.Popen[str]]:
    """`make serve`'s command."""
    command = [sys.executable, "-m", "embedded.serve", "--repository", str(options.repository)]
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--log", str(options.log)]
    models = ["--models", *options.models] if options.models else []
    with child_process([*command, *ports, *models], cwd=root, stderr=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def test_a_dead_model_and_a_dead_server_are_back_and_nothing_is_left(light: ServerOptions) -> None:
    """One server for all of it: a start costs more than each of these."""
    events: list[dict[str, Any]] = []
    with running_server(light, on_event=events.append) as server:
        it_listens_on_loopback_only(server)
        with InferenceServerClient(server.grpc_url) as client:
            for model in ("low_noise_expert", "prepare"):
                os.kill(min(stub_pids(server.pid)[model]), signal.SIGKILL)
                wait_until(lambda model=model: repaired(events, model) and ready(client, light.models), limit_s=120)
            a_server_that_died_is_started_again_at_the_same_address(server, events, client, light)
        processes = psutil.Process(server.supervisor_pid).children(recursive=True)
    assert not any(alive(process) for process in processes)
    assert shared_memory_of(server.supervisor_pid) == []


def it_listens_on_loopback_only(server: Server) -> None:
    connections = psutil.Process(server.pid).net_connections()
    listening = {c.laddr.ip.removeprefix("::ffff:") for c in connections if c.status == "LISTEN"}
    assert listening == {"127.0.0.1"}


def a_server_that_died_is_started_again_at_the_same_address(
    server: Server, events: list[dict[str, Any]], client: InferenceServerClient, options: ServerOptions
) -> None:
    first = server.pid
    os.kill(first, signal.SIGSEGV)
    wait_until(lambda: count(events, "started again") == 1 and ready(client, options.models), limit_s=120)
    assert server.pid != first
    assert len(shared_memory_of(server.supervisor_pid)) == sum(map(len, stub_pids(server.pid).values()))
    died, again = (event for event in events if event["event"] in ("server died", "started again"))
    assert (died["event"], died["exit_code"]) == ("server died", -signal.SIGSEGV)
    assert "Signal (11) received" in Path(died["log"]).read_text(errors="replace")
    assert (again["event"], again["pid"]) == ("started again", server.pid)


def test_a_process_that_hangs_under_two_callers_harms_for_a_moment_only(options: ServerOptions) -> None:
    events: list[dict[str, Any]] = []
    with (
        running_server(options, on_event=events.append) as server,
        TextToVideo(Connection(server.grpc_url)) as client,
    ):
        expected = client.generate_unary("x", seed=1, **SMALL).video
        hang_under_two_callers(server, client, expected)
    assert count(events, "failed") == 0


def test_a_server_that_dies_or_hangs_time_after_time_is_started_again(light: ServerOptions) -> None:
    events: list[dict[str, Any]] = []
    with running_server(light, on_event=events.append) as server, InferenceServerClient(server.grpc_url) as client:
        harms: tuple[Callable[[], None], ...] = (
            lambda: os.kill(server.pid, signal.SIGSTOP),
            lambda: os.kill(server.pid, signal.SIGKILL),
            lambda: shutil.rmtree(server.run_directory.parent),
        )
        for harm in harms:
            before = count(events, "started again")
            harm()
            wait_until(lambda before=before: count(events, "started again") > before, limit_s=180)
        wait_until(lambda: ready(client, light.models), limit_s=120)
    assert count(events, "server hangs") == 1
    assert [count(events, kind) for kind in ("folder removed", "failed")] == [1, 0]


def hang_under_two_callers(server: Server, client: TextToVideo, expected: bytes | None) -> None:
    """2.51 ends an unhealthy process under its calls, and most often itself with it."""
    victim = psutil.Process(min(stub_pids(server.pid)["low_noise_expert"]))
    with ThreadPoolExecutor(2) as pool:
        callers = [
            in_background(pool, "text_to_video", server, **{**LONG, "num_inference_steps": 200}) for _ in ENDPOINTS
        ]
        wait_until(lambda: samples(server)["wan_t2v_generations_in_flight"] > 0, limit_s=60)
        victim.suspend()
        until = time.monotonic() + 2.5
        wait_until(lambda: time.monotonic() > until or not alive(victim), limit_s=60)
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.resume()
        for caller in callers:
            caller.result(timeout=120)
    wait_until(lambda: works(client, expected), limit_s=120)


def ready(client: InferenceServerClient, models: tuple[str, ...]) -> bool:
    try:
        return all(client.is_model_ready(model) for model in models)
    except InferenceServerException:
        return False


def works(client: TextToVideo, expected: bytes | None) -> bool:
    try:
        return client.generate_unary("x", seed=1, **SMALL).video == expected
    except ClientError:
        return False


@pytest.mark.parametrize("victim", ["caller", "supervisor"])
def test_a_crash_leaves_neither_processes_nor_shared_memory(victim: str, light: ServerOptions, root: Path) -> None:
    """The caller, or even the supervisor, is killed outright."""
    code = (
        "import json, sys, time\nfrom pathlib import Path\n"
        "from embedded.options import ServerOptions\nfrom embedded.server import running_server\n"
        "options = ServerOptions(repository=Path(sys.argv[1]), log=Path(sys.argv[2]), models=tuple(sys.argv[3:]))\n"
        "with running_server(options) as server:\n"
        "    print(json.dumps([server.pid, server.supervisor_pid]), flush=True)\n    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(light.repository), str(light.log), *light.models]
    with child_process(command, cwd=root, stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        server_pid, supervisor_pid = json.loads(caller.stdout.readline())
        processes = [psutil.Process(pid) for pid in (server_pid, *sum(map(list, stub_pids(server_pid).values()), []))]
        assert shared_memory_of(supervisor_pid)
        os.kill(caller.pid if victim == "caller" else supervisor_pid, signal.SIGKILL)
        wait_until(lambda: not any(alive(process) for process in processes), limit_s=120)
        wait_until(lambda: shared_memory_of(supervisor_pid) == [], limit_s=60)
        caller.kill()


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_serve_stops_cleanly_on_ctrl_c(light: ServerOptions, root: Path) -> None:
    with serving(light, root) as started:
        assert started.stderr is not None
        assert any(line.startswith("ready: gRPC 127.0.0.1:") for line in iter(started.stderr.readline, ""))
        started.send_signal(signal.SIGINT)
        _, errors = started.communicate(timeout=120)
    assert started.returncode == 0
    assert "Traceback" not in errors
