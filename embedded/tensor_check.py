"""Send known tensors through Triton's Python backend at the start: they must come back unchanged.

Triton 2.51 reads numpy arrays by the memory layout of numpy 1. With numpy 2 it starts, and then changes numbers, loses
texts or crashes the model's process, without any mention of numpy.
"""

import importlib.metadata
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult
from tritonclient.utils import InferenceServerException

from embedded.errors import ServerError

MODEL = "tensor_check"
SENT = {
    "int32": ("INT32", np.array([7, 8, 9, 10], np.int32)),
    "fp32": ("FP32", np.array([0.5, -2.0, 3e38], np.float32)),
    "bytes": ("BYTES", np.array([b"a red ball", b"", "größe".encode()], np.object_)),
}
CALL_LIMIT_S = 60.0  # it takes milliseconds, except on a very busy machine
UNLOAD_LIMIT_S = 10.0
POLL_S = 0.05


def check_tensors(client: InferenceServerClient) -> None:
    """Raise ServerError unless every tensor comes back unchanged."""
    inputs = []
    for name, (datatype, values) in SENT.items():
        inputs.append(InferInput(name, list(values.shape), datatype))
        inputs[-1].set_data_from_numpy(values)
    try:
        answer = client.infer(MODEL, inputs, client_timeout=CALL_LIMIT_S)
    except InferenceServerException as error:
        raise ServerError(f"Triton's Python backend cannot pass tensors on: {error.message()}; {_remedy()}") from None
    for name, (datatype, values) in SENT.items():
        came = _read(answer, name)
        if came != values.tolist():
            difference = f"{datatype} {values.tolist()} came back as {came}"
            raise ServerError(f"Triton's Python backend changes tensors: {difference}; {_remedy()}")


def unload(client: InferenceServerClient, *, headers: dict[str, str], is_gone: Callable[[], bool]) -> None:
    """Unload the check's model, so that only the product's models stay. Raises ServerError."""
    try:
        client.unload_model(MODEL, headers=headers, client_timeout=CALL_LIMIT_S)
    except InferenceServerException as error:
        raise ServerError(f"the model {MODEL} of the start's check cannot be unloaded: {error.message()}") from None
    deadline = time.monotonic() + UNLOAD_LIMIT_S
    while not is_gone() and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _read(answer: InferResult, name: str) -> list[Any] | str:
    try:
        values = answer.as_numpy(name)
    except (ValueError, struct.error) as error:  # its bytes do not fit its shape
        return f"something unreadable ({error})"
    return "nothing" if values is None else list(values.tolist())


def _remedy() -> str:
    version = importlib.metadata.version("numpy")
    return f"this environment has numpy {version}, and Triton 2.51 needs numpy 1: make it anew with `make setup`"
