"""A real tritonserver for the whole run, and ways to call it."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from wan_t2v_client import Connection, TextToVideo

from embedded.options import ServerOptions
from embedded.server import Server, running_server
from embedded.supervision.supervisor import died_log
from tests.server.calls import probe
from tests.waiting import becomes_true, wait_until
from wan_t2v.contract import GRAPHS
from wan_t2v.operate.run_directory import RunDirectory, server_identity

START_LIMIT_S = 600.0  # twenty times what it takes on a quiet machine
WITHOUT_TORCH = ("mp4_encoder", "prepare", *GRAPHS)
"""Models that start in a seventh of the whole repository's time, for what is about processes and not about videos."""


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "server.log"
    with running_server(ServerOptions(start_limit_s=START_LIMIT_S, repository=repository, log=log)) as running:
        yield running
    assert not died_log(log).exists(), f"tritonserver died and was started again: {died_log(log)}"


@pytest.fixture(autouse=True)
def server_stays_alive(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test in which the shared tritonserver died, and only that one: the next finds a server that is ready.

    tritonserver 2.51 dies now and then by itself: a Python process crashes in its own message queue, and takes the
    server along (`boost::interprocess::lock_exception`).
    """
    shared: Server | None = request.getfixturevalue("server") if "server" in request.fixturenames else None
    before = RunDirectory(shared.run_directory).server() if shared else None
    yield
    if shared is None or before is None:
        return
    died = died_log(shared.log)
    if server_identity(before["pid"]) != before:
        becomes_true(died.exists)  # the supervisor writes it a moment later
    if died.exists():
        last = died.read_text(encoding="utf-8", errors="replace")[-3000:]
        died.rename(died.with_suffix(f".died-{time.monotonic_ns()}"))
        wait_until(lambda: probe(shared, "ready")[0] == 0, limit_s=START_LIMIT_S)
        pytest.fail(f"tritonserver died in this test and was started again:\n{last}")


@pytest.fixture
def client(server: Server) -> Iterator[TextToVideo]:
    with TextToVideo(Connection(server.grpc_url)) as connected:
        yield connected


@pytest.fixture
def copied_repository(repository: Path, tmp_path: Path) -> Path:
    """A model repository of the test's own, to break."""
    return Path(
        shutil.copytree(repository, tmp_path / "model_repository", ignore=shutil.ignore_patterns("__pycache__"))
    )


@pytest.fixture
def options(copied_repository: Path, tmp_path: Path) -> ServerOptions:
    return ServerOptions(start_limit_s=START_LIMIT_S, repository=copied_repository, log=tmp_path / "server.log")


@pytest.fixture
def light(repository: Path, tmp_path: Path) -> ServerOptions:
    """A server without an endpoint, for tests of its life; its repository is not to be written to."""
    return ServerOptions(
        start_limit_s=START_LIMIT_S, repository=repository, log=tmp_path / "server.log", models=WITHOUT_TORCH
    )
