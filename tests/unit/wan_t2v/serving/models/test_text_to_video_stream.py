"""What a request at the streaming endpoint leaves behind if it gets no thread."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.pb_utils import FakePbUtils, FakeRequest
from tests.unit.wan_t2v.serving.admission.test_ensemble_gate import SETTINGS
from wan_t2v.contract import STREAM
from wan_t2v.operate.load import load_of
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.serving.admission.queue import Admission, AdmissionLimits
from wan_t2v.serving.models.text_to_video_stream import TextToVideoStream
from wan_t2v.serving.python_backend.metrics import Metrics
from wan_t2v.serving.python_backend.tracing import Tracer
from wan_t2v.serving.resume.checkpoint_store import Limits
from wan_t2v.serving.resume.idempotency import TrustedProxy
from wan_t2v.serving.resume.resume import ResumableGenerations
from wan_t2v.serving.started_pool import started_pool


class Sender:
    """A response sender that keeps the error messages of the final responses."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def is_cancelled(self) -> bool:
        return False

    def send(self, response: Any = None, flags: int = 0) -> None:
        if flags:
            self.ends.append(response.error().message())


class StreamRequest(FakeRequest):
    def __init__(self) -> None:
        super().__init__(parameters=json.dumps({"idempotency_key": "a"}))
        self.sender = Sender()

    def get_response_sender(self) -> Sender:
        return self.sender


class Watch:
    """A watch that keeps which streams are open."""

    def __init__(self) -> None:
        self.open: set[Any] = set()
        self.add, self.discard = self.open.add, self.open.discard


@pytest.fixture
def run(run_directory: Path) -> RunDirectory:
    return RunDirectory.of_server(run_directory, os.getpid())


@pytest.fixture
def endpoint(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The endpoint without graphs: its fields are taken as checked, and nothing generates."""
    model: Any = object.__new__(TextToVideoStream)
    model._pb_utils = FakePbUtils()
    model._run, model._proxy, model._tracer = run, TrustedProxy(), Tracer()
    model._admission = Admission(run, endpoint=STREAM, limits=AdmissionLimits(1, 1))
    model._metrics = Metrics(model._pb_utils, endpoint=STREAM)
    model._resumable = ResumableGenerations(tmp_path / "kept", Limits(1e9, 1 << 40), every=5)
    model._watch = Watch()
    model._threads = started_pool(2, "generation")
    monkeypatch.setattr(model, "_check", lambda request: SETTINGS)
    return model


def test_a_request_that_gets_no_thread_leaves_no_place_no_key_and_no_open_stream(
    endpoint: Any, run: RunDirectory
) -> None:
    endpoint._threads.shutdown()
    for _ in range(3):  # as often as there are places, and once more; the same key each time
        request = StreamRequest()
        endpoint.execute([request])
        assert ["cannot schedule new futures" in message for message in request.sender.ends] == [True]
        assert load_of(run).queued == 0 and not endpoint._watch.open
