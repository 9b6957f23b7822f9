"""Requests to the streaming endpoint whose responses are read one by one, on demand.

The client library reads ahead and stops at the video. Here the caller decides when the connection is read, and gets all
messages until the server ends the stream.
"""

import base64
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import grpc
import tritonclient.grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from wan_t2v_client.error_tail import split_tail

from tests.server.calls import inputs

DOOR = "text_to_video_stream"
RECEIVE_BYTES = 4096  # a small receive buffer, so that an unread socket fills soon
# A small flow-control window. By default gRPC widens it for fast connections.
NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384), ("grpc.max_receive_message_length", -1))
_ANSWERS = ("video", "frames", "denoised_latents")


class Failed(Exception):
    """A request that ended in an error: gRPC's status name or HTTP's status number, and the text.

    In a stream the status is in the tail of this project's errors. Triton's own errors have none there.
    """

    def __init__(self, status: str, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status, self.text = status, text


def _failed(text: str) -> Failed:
    message, tail = split_tail(text)
    return Failed("" if tail is None else tail.status, message)


@dataclass(frozen=True)
class Message:
    """A message of the server: the number of a `step`, the bytes of an `answer`, or neither (a heartbeat)."""

    step: int | None = None
    answer: bytes | None = None
    metadata: Mapping[str, Any] | None = None


@contextlib.contextmanager
def grpc_messages(
    url: str, fields: Mapping[str, Any], parameters: Mapping[str, Any] | None = None
) -> Iterator[Iterator[Message]]:
    """Send a request over gRPC and yield its messages. Leaving the context cancels it. Iterating raises Failed."""
    request = service_pb2.ModelInferRequest(model_name=DOOR)
    for given in inputs(dict(fields)):
        request.inputs.append(given._get_tensor())
        request.raw_input_contents.append(given._get_content())
    for name, value in (parameters or {}).items():
        setattr(request.parameters[name], "string_param" if isinstance(value, str) else "int64_param", value)
    answered = threading.Event()

    def requests() -> Iterator[Any]:
        yield request
        answered.wait()

    with grpc.insecure_channel(url, options=NARROW) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(requests())
        try:
            yield _heard(call, answered)
        finally:
            answered.set()
            call.cancel()


def _heard(call: Any, answered: threading.Event) -> Iterator[Message]:
    failed = None
    try:
        for response in call:
            if response.error_message:
                failed = _failed(response.error_message)
                answered.set()  # no cancel, after which tritonserver 2.51 can keep the connection's socket for ever
                continue
            yield _grpc_message(tritonclient.grpc.InferResult(response.infer_response))
            if response.infer_response.parameters["triton_final_response"].bool_param:
                answered.set()  # half-closes the stream; further messages of the server still arrive
    except grpc.RpcError as error:
        raise Failed(error.code().name, error.details() or "") from None
    if failed:
        raise failed


def _grpc_message(result: Any) -> Message:
    told, metadata = result.as_numpy("progress"), result.as_numpy("metadata")
    if told is not None:
        return Message(step=json.loads(told[0])["step"])
    if metadata is None:
        return Message()
    found = [result.as_numpy(name) for name in _ANSWERS]
    answer = b"".join(bytes(array[0]) if array.dtype == object else array.tobytes() for array in found if array.size)
    return Message(answer=answer, metadata=json.loads(metadata[0]))


@contextlib.contextmanager
def http_messages(url: str, fields: Mapping[str, Any]) -> Iterator[Iterator[Message]]:
    """Request an MP4 or frames over server-sent events, with a small receive buffer. Iterating raises Failed."""
    address = urlsplit(url)
    unread = socket.socket()
    unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    unread.connect((address.hostname, address.port))
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    connection.sock = unread
    body = json.dumps({"prompt": "a red ball", "video_encoding": "base64", **fields})
    with contextlib.closing(connection):
        connection.request("POST", f"/v2/models/{DOOR}/generate_stream", body, {"Connection": "close"})
        yield _events(connection)


def _events(connection: http.client.HTTPConnection) -> Iterator[Message]:
    with connection.getresponse() as response:
        if response.status != 200:
            raise Failed(str(response.status), response.read().decode(errors="replace"))
        for line in response:
            if line.startswith(b"data: "):
                yield _http_message(json.loads(line.removeprefix(b"data: ")))


def _http_message(event: dict[str, Any]) -> Message:
    if "error" in event:
        raise _failed(event["error"])
    if event.get("progress"):
        return Message(step=json.loads(event["progress"])["step"])
    if not event.get("metadata"):
        return Message()
    answer = base64.b64decode(event["video"]) if event.get("video") else bytes(event["frames"])
    return Message(answer=answer, metadata=json.loads(event["metadata"]))
