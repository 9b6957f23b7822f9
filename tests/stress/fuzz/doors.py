"""Senders of bad requests over each protocol, and the check that a refusal is fair."""

import base64
import json
import queue
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import tritonclient.grpc
from tritonclient.utils import InferenceServerException
from wan_t2v_client.error_tail import split_tail

from tests.stress.fuzz.bad_requests import Bad, Sent

UNARY, STREAM = "text_to_video", "text_to_video_stream"
LIMIT_S = 60.0
EMPTY = "EMPTY"  # a response without outputs: a failure repeated by Triton's response cache, see docs/run/operating.md
# Triton's own errors, raised before this project's code runs. All of them name the fault.
TRITONS_OWN = (
    r"unexpected inference input '",
    r"unexpected shape for input '",
    r"inference input '?\w+'? data-type is",
    r"inference input data-type",
    r"unexpected datatype",
    r"failed to parse the request JSON buffer",
    r"Unable to parse '",
    r"unable to parse",
    r"attempt to access JSON non-",
    r"Unexpected type",
    r"expected \d+ string elements",
    r"but expected \d+",
    r"input .* shape .* does not match",
    r"non-empty shape",
    r"shape .* expected",
    r"batch-size must be <= ",
)


@dataclass(frozen=True)
class Refusal:
    """End of a request: an error's code (gRPC's name or HTTP's status) and text. An empty code means an answer."""

    code: str
    text: str

    @property
    def is_fair(self) -> bool:
        """Whether the code blames the caller, or the text is one of Triton's that names the fault."""
        if self.code in ("INVALID_ARGUMENT", "400"):
            return True
        return bool(self.code) and any(re.search(known, self.text) for known in TRITONS_OWN)


class GrpcDoor:
    """Sender to one model over gRPC, with one connection per request."""

    def __init__(self, address: str, model: str) -> None:
        self._model = model
        self._address = address

    def send(self, bad: Bad) -> Refusal:
        """Send the request and wait for its end."""
        try:
            inputs = [_input(name, tensor) for name, tensor in bad.tensors.items()]
            with tritonclient.grpc.InferenceServerClient(self._address) as client:
                if self._model == STREAM:
                    _stream(client, inputs, bad.parameters)
                else:
                    options = {"parameters": bad.parameters or None, "client_timeout": LIMIT_S}
                    if not client.infer(self._model, inputs, **options).get_response().outputs:
                        return Refusal(EMPTY, "an answer without tensors")
        except InferenceServerException as error:
            if error.status() is None:
                return _streamed_refusal(error.message())
            return Refusal(str(error.status()).removeprefix("StatusCode."), error.message() or "")
        return Refusal("", "answered")


def _stream(client: Any, inputs: list[Any], parameters: dict[str, Any]) -> None:
    news: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    client.start_stream(lambda result, error: news.put((result, error)))
    client.async_stream_infer(STREAM, inputs, parameters=parameters or None)
    result, error = news.get(timeout=LIMIT_S)
    while error is None and result.as_numpy("metadata") is None:
        result, error = news.get(timeout=LIMIT_S)
    client.stop_stream()  # no cancel, after which tritonserver 2.51 can keep the connection's socket for ever
    if error is not None:
        raise error


class HttpDoor:
    """Sender to one endpoint over HTTP's generate extension."""

    def __init__(self, url: str, model: str) -> None:
        self._url = f"{url}/v2/models/{model}/generate" + ("_stream" if model == STREAM else "")

    def send(self, bad: Bad) -> Refusal:
        """Send the request as JSON and wait for its end."""
        body = {name: _as_json(tensor) for name, tensor in bad.tensors.items()} | bad.parameters
        asked = urllib.request.Request(self._url, data=json.dumps(body, allow_nan=True).encode())
        try:
            with urllib.request.urlopen(asked, timeout=LIMIT_S) as answer:
                text = answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return Refusal(str(error.code), error.read().decode(errors="replace"))
        told = re.search(r'"error":\s*"(.*)"', text)
        return Refusal("", "answered") if told is None else _streamed_refusal(told[1])


def _streamed_refusal(text: str) -> Refusal:
    """Parse an error of a stream, which has a text only. This project's errors have the code in their tail."""
    message, tail = split_tail(text)
    return Refusal("stream", text) if tail is None else Refusal(tail.status, message)


def _input(name: str, tensor: Sent) -> Any:
    given = tritonclient.grpc.InferInput(name, list(tensor.array.shape), tensor.datatype)
    given.set_data_from_numpy(tensor.array)
    return given


def _as_json(tensor: Sent) -> Any:
    """Convert a tensor to JSON: a scalar for one value, else nested lists. Bytes become text, invalid if not UTF-8."""
    array = tensor.array
    if array.dtype == object:
        texts = [_text(value) for value in array.reshape(-1).tolist()]
        return texts[0] if array.shape == (1,) else texts
    return array.item() if array.shape == (1,) else array.tolist()


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return "\ud800" + base64.b64encode(value).decode()  # half a surrogate pair: valid JSON, but not UTF-8
