"""A real tritonserver for the whole run, and ways to call it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from wan_t2v_client import Connection, TextToVideo

from embedded.options import ServerOptions
from embedded.server import Server, running_server
from embedded.supervision.supervisor import died_log
from wan_t2v.contract import GRAPHS

START_LIMIT_S = 600.0  # twenty times what it takes on a quiet machine
WITHOUT_TORCH = ("mp4_encoder", "prepare", *GRAPHS)
"""Models that start in a seventh of the whole repository's time, for what is about processes and not about videos."""


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "server.log"
    with running_server(ServerOptions(start_limit_s=START_LIMIT_S, repository=repository, log=log)) as running:
        yield running
    assert not died_log(log).exists(), f"tritonserver died and was started again: {died_log(log)}"


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
