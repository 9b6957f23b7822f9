"""Callers that disconnect during a request, over each protocol and endpoint except the gRPC stream."""

import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import tritonclient.grpc

from embedded.server import Server
from tests.server.calls import inputs
from tests.stress.faults.messages import DOOR
from tests.stress.faults.victim import ENDPOINTS, LONG, SMALL, Outcome, Victim, holds_no_place

UNARY = "text_to_video"
WAYS = ("gRPC unary", "HTTP unary", "HTTP stream")
LEAVING = {**LONG, "num_inference_steps": 100}
Leave = Callable[[], None]


def leave(victim: Victim, way: str) -> Outcome:
    """Let a caller disconnect while its clip is generated and another request waits. Its slot must be freed.

    Triton does not notify an ensemble, so at the unary endpoint the generation runs to its end or its deadline.
    """
    began = time.monotonic()
    whole = victim.asked("unary" if "unary" in way else "stream", LEAVING)
    whole_s = time.monotonic() - began
    gone = begun(victim.server, way, LEAVING)
    faults = [] if isinstance(whole, bytes) else [f"nobody gets such a clip: {whole}"]
    faults += [] if victim.until(lambda load: load.in_flight > 0) else ["it was never under way"]
    gone()
    left_at = time.monotonic()
    others = {door: victim.is_right(door, victim.asked(door, SMALL)) for door in ENDPOINTS}
    faults += [f"the other caller at the {door} endpoint got no right video" for door, ok in others.items() if not ok]
    faults += [] if victim.until(holds_no_place) else ["its work went on"]
    told = f"all was done {time.monotonic() - left_at:.1f} s after it left; the whole clip takes {whole_s:.1f} s"
    return victim.outcome(f"a caller leaves, {way}", (told,), faults, since=left_at)


def begun(server: Server, way: str, fields: Mapping[str, Any]) -> Leave:
    """Send a request for a clip. Returns the function that disconnects."""
    return _over_grpc(server.grpc_url, fields) if way == WAYS[0] else _over_http(server.http_url, way, fields)


def _over_grpc(url: str, fields: Mapping[str, Any]) -> Leave:
    client = tritonclient.grpc.InferenceServerClient(url)
    call = client.async_infer(UNARY, inputs(dict(fields)), lambda result, error: None)

    def gone() -> None:
        call.cancel()
        client.close()

    return gone


def _over_http(url: str, way: str, fields: Mapping[str, Any]) -> Leave:
    address = urlsplit(url)
    path = f"/v2/models/{UNARY}/generate" if way == "HTTP unary" else f"/v2/models/{DOOR}/generate_stream"
    body = json.dumps({"prompt": "a red ball", "video_encoding": "base64", **fields}).encode()
    connection = socket.create_connection((address.hostname, address.port))
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection.close
