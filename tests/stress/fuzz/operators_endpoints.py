"""Calls of Triton's operator endpoints over both protocols, without the key or with a wrong one."""

import http.client
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from embedded.server import Server
from tests.stress.fuzz.doors import LIMIT_S, Refusal

RESTRICTED = "is restricted, expecting header"
CODE = 'import os; os.system("touch /tmp/taken-over")'  # an uploaded model.py could run any code
CONFIG = json.dumps({"name": "prepare", "backend": "python", "max_batch_size": 0})
GRPC_HEADER, HTTP_HEADER = "triton-grpc-protocol-admin-key", "admin-key"

GrpcCall = Callable[[Any, Mapping[str, str]], Any]
GRPC: dict[str, GrpcCall] = {
    "index": lambda client, headers: client.get_model_repository_index(headers=headers),
    "load": lambda client, headers: client.load_model("prepare", headers=headers),
    "load with a file": lambda client, headers: client.load_model(
        "prepare", headers=headers, config=CONFIG, files={"file:1/model.py": CODE.encode()}
    ),
    "unload": lambda client, headers: client.unload_model("mp4_encoder", headers=headers),
    "system region, register": lambda client, headers: client.register_system_shared_memory(
        "region", "/wan_t2v_1_a", 64, headers=headers
    ),
    "system region, status": lambda client, headers: client.get_system_shared_memory_status(headers=headers),
    "system region, unregister": lambda client, headers: client.unregister_system_shared_memory(headers=headers),
    "CUDA region, register": lambda client, headers: client.register_cuda_shared_memory(
        "region", b"A" * 64, 0, 64, headers=headers
    ),
    "CUDA region, status": lambda client, headers: client.get_cuda_shared_memory_status(headers=headers),
    "CUDA region, unregister": lambda client, headers: client.unregister_cuda_shared_memory(headers=headers),
    "trace, read": lambda client, headers: client.get_trace_settings(headers=headers),
    "trace, change": lambda client, headers: client.update_trace_settings(
        settings={"trace_level": ["TENSORS"], "trace_rate": "1"}, headers=headers
    ),
    "trace of a model": lambda client, headers: client.update_trace_settings(
        "prepare", settings={"trace_rate": "1"}, headers=headers
    ),
    "log, read": lambda client, headers: client.get_log_settings(headers=headers),
    "log, change": lambda client, headers: client.update_log_settings({"log_verbose_level": 9}, headers=headers),
}
_REGION = {"key": "/wan_t2v_1_a", "offset": 0, "byte_size": 64}
_CUDA = {"raw_handle": {"b64": "QUFB"}, "device_id": 0, "byte_size": 64}
HTTP: dict[str, tuple[str, str, Any]] = {
    "index": ("POST", "/v2/repository/index", {}),
    "load": ("POST", "/v2/repository/models/prepare/load", {}),
    "load with a file": (
        "POST", "/v2/repository/models/prepare/load", {"parameters": {"config": CONFIG, "file:1/model.py": "cHJpbnQ="}}
    ),
    "unload": ("POST", "/v2/repository/models/mp4_encoder/unload", {}),
    "system region, register": ("POST", "/v2/systemsharedmemory/region/region/register", _REGION),
    "system region, status": ("GET", "/v2/systemsharedmemory/status", None),
    "system region, unregister": ("POST", "/v2/systemsharedmemory/unregister", {}),
    "CUDA region, register": ("POST", "/v2/cudasharedmemory/region/region/register", _CUDA),
    "CUDA region, status": ("GET", "/v2/cudasharedmemory/status", None),
    "CUDA region, unregister": ("POST", "/v2/cudasharedmemory/unregister", {}),
    "trace, read": ("GET", "/v2/trace/setting", None),
    "trace, change": ("POST", "/v2/trace/setting", {"trace_level": ["TENSORS"], "trace_rate": "1"}),
    "trace of a model": ("POST", "/v2/models/prepare/trace/setting", {"trace_rate": "1"}),
    "log, read": ("GET", "/v2/logging", None),
    "log, change": ("POST", "/v2/logging", {"log_verbose_level": 9}),
}  # fmt: skip
KEYS: dict[str, Callable[[np.random.Generator], str | None]] = {
    "no key": lambda random: None,
    "an empty key": lambda random: "",
    "another key": lambda random: random.bytes(24).hex(),
    "a long key": lambda random: "x" * int(random.integers(1000, 7000)),
}


def is_refused(refusal: Refusal) -> bool:
    """Whether the call was refused for the missing key."""
    return refusal.code in ("UNAVAILABLE", "403") and RESTRICTED in refusal.text


def operators_endpoints_tried(server: Server, random: np.random.Generator) -> tuple[int, list[str]]:
    """Call each endpoint with each kind of key over both protocols. Returns the number of calls, and those accepted."""
    tried: dict[str, Refusal] = {}
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        for kind, key_of in KEYS.items():
            for name, call in GRPC.items():
                tried[f"gRPC, {name}, {kind}"] = _over_grpc(client, call, key_of(random))
            for name, (method, path, body) in HTTP.items():
                told = _over_http(server.http_url, method, path, body=body, key=key_of(random))
                tried[f"HTTP, {name}, {kind}"] = told
    return len(tried), [
        f"{name}: {told.code} {told.text[:200]}" for name, told in tried.items() if not is_refused(told)
    ]


def _over_grpc(client: Any, call: GrpcCall, key: str | None) -> Refusal:
    try:
        call(client, {} if key is None else {GRPC_HEADER: key})
    except InferenceServerException as error:
        return Refusal(str(error.status()).removeprefix("StatusCode."), error.message() or "")
    return Refusal("", "answered")


def _over_http(url: str, method: str, path: str, *, body: Any, key: str | None) -> Refusal:
    """Send the call as a web page could: as text/plain, which needs no CORS preflight."""
    headers = {"Content-Type": "text/plain"} | ({} if key is None else {HTTP_HEADER: key})
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=LIMIT_S)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        with connection.getresponse() as answer:
            return Refusal(str(answer.status), answer.read().decode(errors="replace"))
    finally:
        connection.close()
