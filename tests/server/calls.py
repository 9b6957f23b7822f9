"""Calls with the parameters that the client's library does not have, and a look at the metrics."""

import re
import subprocess
import sys
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from embedded.server import Server
from wan_t2v.contract import STREAM_REQUEST

SMALL = {"num_frames": 5, "height": 32, "width": 48, "num_inference_steps": 4, "seed": 5}
LONG = {**SMALL, "num_inference_steps": 900}
LARGEST = {"num_frames": 81, "height": 256, "width": 256, "num_inference_steps": 90, "seed": 5}  # takes minutes
CALL_LIMIT_S = 600.0
_NUMPY = {"INT32": np.int32, "INT64": np.int64, "FP32": np.float32}
_TYPES = {field.name: field.dtype.value for field in STREAM_REQUEST}


def inputs(fields: dict[str, Any]) -> list[tritonclient.grpc.InferInput]:
    """A prompt and fields as Triton's inputs."""
    found = []
    for name, value in {"prompt": b"a red ball", **fields}.items():
        found.append(tritonclient.grpc.InferInput(name, [1], _TYPES[name]))
        found[-1].set_data_from_numpy(np.array([value], dtype=_NUMPY.get(_TYPES[name], np.object_)))
    return found


def unary(server: Server, fields: dict[str, Any], **options: Any) -> bytes | str:
    """The video, or `<status>: <message>`; `options` are those of tritonclient's `infer`."""
    options = {"client_timeout": CALL_LIMIT_S, **options}
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        try:
            return bytes(client.infer("text_to_video", inputs(fields), **options).as_numpy("video")[0])
        except InferenceServerException as error:
            return f"{error.status()}: {error.message()}"


def streamed(server: Server, fields: dict[str, Any], **options: Any) -> bytes | str:
    """The same at the streaming endpoint; a failure has no status here."""
    done: Future[bytes | str] = Future()

    def heard(result: Any, error: InferenceServerException | None) -> None:
        if error is not None:
            done.set_result(error.message())
        elif (video := result.as_numpy("video")) is not None and not done.done():
            done.set_result(bytes(video[0]))

    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(heard)
        client.async_stream_infer("text_to_video_stream", inputs(fields), **options)
        return done.result(timeout=120)


ENDPOINTS = {"text_to_video": unary, "text_to_video_stream": streamed}


def in_background(pool: ThreadPoolExecutor, door: str, server: Server, **fields: Any) -> Future[bytes | str]:
    """A request that somebody else makes meanwhile."""
    return pool.submit(ENDPOINTS[door], server, fields)


def samples(server: Server) -> dict[str, float]:
    """Every sample of this project's families: `name{labels}` to value."""
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(wan_t2v_\S+) (\S+)$", text, re.MULTILINE)}


def operate(server: Server, *arguments: str) -> subprocess.Popen[str]:
    """`python -m wan_t2v.operate` beside the server."""
    command = [sys.executable, "-m", "wan_t2v.operate", *arguments, "--run-directory", str(server.run_directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def probe(server: Server, what: str) -> tuple[int, str]:
    """A probe's exit code, and what it said of its reason."""
    asked = operate(server, "probe", what, "--url", server.http_url, "--timeout-s", "20")
    _, reason = asked.communicate(timeout=60)
    return asked.returncode, reason
