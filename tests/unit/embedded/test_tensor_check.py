"""A server whose Python processes change tensors is refused at its start."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from embedded import tensor_check
from embedded.errors import ServerError
from embedded.tensor_check import MODEL, check_tensors, unload

REMEDY = "this environment has numpy .*, and Triton 2.51 needs numpy 1: make it anew with `make setup`"


@dataclass
class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers with the inputs as they came, but for `changed` by name; None takes an output away."""

    changed: dict[str, np.ndarray | None] = field(default_factory=dict)
    error: str = ""
    unloaded: list[str] = field(default_factory=list)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        if self.error:
            context.abort(grpc.StatusCode.INTERNAL, self.error)
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        for sent, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            values = self.changed.get(sent.name, sent)
            if values is None:
                continue
            shape = sent.shape if values is sent else values.shape
            answer.outputs.add(name=sent.name, datatype=sent.datatype, shape=shape)
            answer.raw_output_contents.append(raw if values is sent else values.tobytes())
        return answer

    def RepositoryModelUnload(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.unloaded.append(request.model_name)
        return service_pb2.RepositoryModelUnloadResponse()


@pytest.fixture
def triton() -> Iterator[tuple[FakeTriton, tritonclient.grpc.InferenceServerClient]]:
    fake = FakeTriton()
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield fake, client
    server.stop(None)


def test_tensors_that_come_back_unchanged_are_no_reason_to_refuse(triton: tuple[FakeTriton, Any]) -> None:
    check_tensors(triton[1])


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [  # the first two are what numpy 2 was seen to make of them
        ("int32", np.array([7, 7, 7, 7], np.int32), r"INT32 \[7, 8, 9, 10\] came back as \[7, 7, 7, 7\]"),
        ("fp32", np.array([], np.float32), r"FP32 \[.*\] came back as \[\]"),
        ("fp32", None, r"FP32 \[.*\] came back as nothing"),
        ("bytes", np.zeros((3, 4), np.uint8), r"BYTES \[.*\] came back as something unreadable \(.*\)"),
    ],
)
def test_one_that_changes_is_told_with_the_remedy(
    name: str, values: np.ndarray | None, told: str, triton: tuple[FakeTriton, Any]
) -> None:
    triton[0].changed = {name: values}
    with pytest.raises(ServerError, match=f"changes tensors: {told}; {REMEDY}"):
        check_tensors(triton[1])


def test_a_process_that_dies_of_them_is_told_with_the_remedy(triton: tuple[FakeTriton, Any]) -> None:
    triton[0].error = "Stub process 'tensor_check_0_0' is not healthy."
    with pytest.raises(ServerError, match=f"cannot pass tensors on: Stub process .* is not healthy.; {REMEDY}"):
        check_tensors(triton[1])


def test_the_model_of_the_check_is_taken_out(triton: tuple[FakeTriton, Any]) -> None:
    answers = [False, False, True]
    unload(triton[1], headers={}, is_gone=lambda: answers.pop(0))
    assert triton[0].unloaded == [MODEL] and not answers


def test_a_process_of_it_that_stays_does_not_hold_the_start_up(
    triton: tuple[FakeTriton, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_check, "UNLOAD_LIMIT_S", 0.1)
    unload(triton[1], headers={}, is_gone=lambda: False)
