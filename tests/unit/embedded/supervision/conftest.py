"""A Triton with two processes of one model, and its model repository."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from embedded.supervision import model_watchdog
from tests.unit.embedded.supervision.fake_triton import MODEL, FakeTriton
from wan_t2v.contract import UNARY


@pytest.fixture(params=["2.51", "2.71"])
def triton(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTriton]:
    fake = FakeTriton(request.param == "2.71", ["READY"], living=2)
    monkeypatch.setattr(model_watchdog, "stub_pids", lambda pid: {MODEL: set(range(fake.living))})
    monkeypatch.setattr(model_watchdog, "stubs", lambda pid: ())
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    fake.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield fake
    server.stop(None)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model repository."""
    for name in (MODEL, "prepare", UNARY):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.pbtxt").touch()
    return tmp_path / "models"
