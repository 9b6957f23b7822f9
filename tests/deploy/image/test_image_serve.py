"""The command of the server's container."""

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.image import serve
from tests.child_process import child_process
from tests.deploy.rendering import ALL_VALUES, ROOT, server
from tests.waiting import wait_until
from wan_t2v.operate.shared_memory import FOLDER
from wan_t2v.operate.stack import STACK_BYTES
from wan_t2v.serving.python_backend.responses import _REGION

TRITON = """#!{python}
import resource, sys
print(resource.getrlimit(resource.RLIMIT_STACK)[0], *sys.argv[1:])
"""
# Tells which files are in the shared memory when it starts.
LOOKING = """#!{python}
import pathlib
print(*sorted(path.name for path in pathlib.Path({folder!r}).glob("{pattern}")))
"""
# Like tritonserver while it loads: no handler, but for Python's own of SIGINT. With `handles` it exits as if asked.
LOADING = """#!{python}
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
if {handles}:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(7))
pathlib.Path({started!r}).touch()
while True:
    time.sleep(0.05)
"""
IN_A_CONTAINER = ("unshare", "--user", "--map-root-user", "--fork", "--pid", "--mount-proc")
UNSHARES = subprocess.run([*IN_A_CONTAINER, "true"], capture_output=True, check=False).returncode == 0
NUMBERS = (signal.SIGTERM, signal.SIGINT)
LIMIT_S = 300.0  # for the end of a process on a busy machine


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", *server("values-cpu")["command"][2:], *options]


def environment(folder: Path, program: str) -> dict[str, str]:
    """An environment whose `tritonserver` is this program."""
    fake = folder / "tritonserver"
    fake.write_text(program)
    fake.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def test_shared_memory_that_cannot_be_removed_ends_no_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(folder: Path, prefix: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", f"{folder}/{prefix}_1")

    monkeypatch.setattr(serve, "remove_regions", refuse)
    monkeypatch.setattr(serve, "PROGRAM", "true")
    handlers = {number: signal.getsignal(number) for number in serve.PASSED_ON}
    try:
        assert serve.main(["--backend-config=python,shm-region-prefix-name=of_another"]) == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert "shared memory of an earlier server stays: [Errno 1]" in capsys.readouterr().err


def test_the_servers_command_runs_triton_with_a_deep_stack(tmp_path: Path) -> None:
    variables = environment(tmp_path, TRITON.format(python=sys.executable))
    options = ["--model-repository=/repository", "--x=a b"]
    done = subprocess.run(command(*options), cwd=ROOT, env=variables, capture_output=True, text=True)
    stack, told = done.stdout.strip().split(" ", 1)
    assert (done.returncode, told) == (0, " ".join(options))
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    assert int(stack) == (STACK_BYTES if hard == resource.RLIM_INFINITY else min(hard, STACK_BYTES))


@pytest.fixture
def regions() -> Iterator[tuple[str, str]]:
    """Two regions in the machine's shared memory; the name of the second begins otherwise."""
    name = f"wan_t2v_test_serve_{os.getpid()}_region"
    found = (name, f"other_{name}")
    for region in found:
        (FOLDER / region).touch()
    yield found
    for region in found:
        (FOLDER / region).unlink(missing_ok=True)


def test_what_a_server_before_it_left_in_shared_memory_is_removed(tmp_path: Path, regions: tuple[str, str]) -> None:
    mine, others = regions
    program = LOOKING.format(python=sys.executable, folder=str(FOLDER), pattern=f"*{mine}")
    variables = environment(tmp_path, program)
    for options, left in (([], {mine, others}), ([f"{serve.REGION_PREFIX}{mine.removesuffix('region')}"], {others})):
        done = subprocess.run(command(*options), cwd=ROOT, env=variables, capture_output=True, text=True)
        assert set(done.stdout.split()) == left, done.stderr


@pytest.mark.parametrize("values", ALL_VALUES)
def test_the_charts_server_names_its_regions_and_no_answer_does(values: str) -> None:
    """The pod's shared memory outlives its containers."""
    prefix = serve.region_prefix(server(values)["args"])
    assert prefix and _REGION.fullmatch(f"/{prefix}1b9ef882-2349-4ec8-bbc6-44ad595917d4")


def test_without_a_prefix_nobody_elses_regions_are_removed() -> None:
    assert serve.region_prefix(["--model-repository=/repository", serve.REGION_PREFIX]) == ""
    assert serve.region_prefix([f"{serve.REGION_PREFIX}a", f"{serve.REGION_PREFIX}b"]) == "b"


def test_the_servers_command_outside_the_image_says_so(tmp_path: Path) -> None:
    done = subprocess.run(command(), cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: tritonserver cannot be run"), done.stderr


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("handles", [True, False])
def test_a_signal_reaches_triton_whose_exit_code_is_the_containers(
    tmp_path: Path, number: signal.Signals, *, handles: bool
) -> None:
    started = tmp_path / "started"
    variables = environment(tmp_path, LOADING.format(python=sys.executable, handles=handles, started=str(started)))
    with child_process(command(), cwd=ROOT, env=variables, start_new_session=True) as running:
        try:
            wait_until(started.exists)
            running.send_signal(number)
            assert running.wait(LIMIT_S) == (7 if handles else 128 + number)
        finally:
            running.kill()


@pytest.mark.skipif(not UNSHARES, reason="this machine lets no user make a PID namespace")
def test_a_server_that_loads_ends_at_once_as_a_containers_first_process(tmp_path: Path) -> None:
    """The kernel drops a signal without a handler there."""
    started = tmp_path / "started"
    variables = environment(tmp_path, LOADING.format(python=sys.executable, handles=False, started=str(started)))
    with child_process(
        [*IN_A_CONTAINER, *command()], cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, start_new_session=True
    ) as unshare:
        try:
            wait_until(started.exists)
            (first,) = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
            os.kill(int(first), signal.SIGTERM)
            assert unshare.wait(LIMIT_S) == 128 + signal.SIGTERM
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(unshare.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_before_triton_is_started_reaches_it(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """A pod may be deleted in this moment. The handlers are called without a signal."""
    handlers: dict[int, Callable[[int, None], object]] = {}
    sent: list[int] = []

    class Started:
        def __init__(self, _: list[str], *, restore_signals: bool) -> None:
            handlers[number](number, None)

        def send_signal(self, received: int) -> None:
            sent.append(received)

        def wait(self) -> int:
            return -number

    monkeypatch.setattr(serve, "deepen_stack", lambda: None)
    monkeypatch.setattr(serve.signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(serve.subprocess, "Popen", Started)
    assert serve.main([]) == 128 + number
    assert sent == [number]
