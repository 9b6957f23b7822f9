import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.fakes import FakePbUtils, FakeRequest
from wan_t2v.serving.graph import GraphModel, installed_graph


class RecordingEngine:
    """Doubles `x`; keeps the batches it was given. `poison` makes it fail on batches that hold that number."""

    def __init__(self, poison: float | None = None) -> None:
        self.batches: list[int] = []
        self.poison = poison

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        self.batches.append(len(inputs["x"]))
        if self.poison is not None and (inputs["x"] == self.poison).any():
            raise RuntimeError("no memory")
        return {"y": inputs["x"] * 2}


class Request(FakeRequest):
    def requested_output_names(self) -> list[str]:
        return ["y"]


def model(engine: RecordingEngine) -> GraphModel:
    made = GraphModel.__new__(GraphModel)
    made._pb_utils, made._engine = FakePbUtils(), engine
    return made


def values(responses: list[Any]) -> list[Any]:
    return [None if r.has_error() else r.output_tensors()[0].as_numpy().tolist() for r in responses]


def test_requests_of_one_shape_run_as_one_batch_and_each_gets_its_rows() -> None:
    engine = RecordingEngine()
    requests = [Request(x=np.full((rows, 2), float(rows))) for rows in (1, 3, 1)]
    assert values(model(engine).execute(requests)) == [[[2, 2]], [[6, 6]] * 3, [[2, 2]]]
    assert engine.batches == [5]


def test_requests_of_other_shapes_run_apart() -> None:
    engine = RecordingEngine()
    requests = [Request(x=np.ones((1, width))) for width in (2, 3, 2)]
    assert values(model(engine).execute(requests)) == [[[2, 2]], [[2, 2, 2]], [[2, 2]]]
    assert sorted(engine.batches) == [1, 2]


def test_a_failure_is_the_answer_of_each_request_that_it_touches_and_of_no_other() -> None:
    requests = [Request(x=np.full((1, 2), 7.0)), Request(x=np.ones((1, 3)))]
    failed, answered = model(RecordingEngine(poison=7.0)).execute(requests)
    assert failed.error().message() == "RuntimeError: no memory"
    assert not answered.has_error()


def test_a_graph_that_is_not_its_manifests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"manifest.json is missing. Run `make export`"):
        installed_graph(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"onnx_sha256": "0" * 64}))
    with pytest.raises(FileNotFoundError, match=r"model.onnx is missing. Run `make export`"):
        installed_graph(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"half of it")
    with pytest.raises(ValueError, match=r"is not the file that its manifest describes. Run `make export` again."):
        installed_graph(tmp_path)
