"""Servers of the comparison: this project's streaming endpoint, diffusers behind PyTriton and behind FastAPI."""

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tritonclient.grpc
from wan_t2v_client import Connection, TextToVideo

from benchmarks.baselines.server_process import running_server_process
from benchmarks.harness.installed_copy import Installed
from embedded.options import ServerOptions
from embedded.server import running_server
from embedded.wheel import installed_wheel

PROMPT = "a red ball rolls left"
PYTRITON_MODEL = "diffusers"  # the model's name in benchmarks/baselines/pytriton_server.py
CALL_LIMIT_S = 600


@dataclass(frozen=True)
class VideoServer:
    """Client of one server.

    Attributes:
        generate: `generate(seed, steps)` returns an MP4; steps None is the server's default.
        leave: `leave(after_s)` sends a request and cancels it after so many seconds.
    """

    name: str
    generate: Callable[[int, int | None], bytes]
    leave: Callable[[float], None]


@contextlib.contextmanager
def running_servers(copy: Installed, folder: Path, *, threads: int) -> Iterator[list[VideoServer]]:
    """Start all three servers, yield their clients, and stop the servers. Raises ServerError or ServerProcessError."""
    options = ["--checkpoint", str(copy.checkpoint), "--exported", str(copy.exported), "--threads", str(threads)]
    programs = {"pytriton": installed_wheel().environment(), "fastapi": None}
    with ExitStack() as stack:
        server = stack.enter_context(
            running_server(ServerOptions(repository=copy.repository, log=folder / "server.log"))
        )
        urls = {
            name: stack.enter_context(
                running_server_process(
                    ["-m", f"benchmarks.baselines.{name}_server", *options],
                    folder / f"{name}.log",
                    environment=environment,
                )
            )["url"]
            for name, environment in programs.items()
        }
        client = stack.enter_context(tritonclient.grpc.InferenceServerClient(urls["pytriton"]))
        yield [ours(server.grpc_url), pytriton(client), fastapi(urls["fastapi"])]


def ours(url: str) -> VideoServer:
    """Return the client of this project's streaming endpoint."""

    def generate(seed: int, steps: int | None) -> bytes:
        with TextToVideo(Connection(url)) as client:
            video = client.generate(PROMPT, seed=seed, num_inference_steps=steps).video
        assert video is not None
        return video

    def leave(after_s: float) -> None:
        started = time.monotonic()
        with TextToVideo(Connection(url)) as client, contextlib.closing(client.stream(PROMPT, seed=0)) as news:
            for _ in news:
                if time.monotonic() - started >= after_s:
                    return

    return VideoServer("ours", generate, leave)


def pytriton(client: tritonclient.grpc.InferenceServerClient) -> VideoServer:
    """Return the client of the PyTriton server: tritonclient over gRPC, as in PyTriton's own client."""

    def generate(seed: int, steps: int | None) -> bytes:
        answer = client.infer(PYTRITON_MODEL, _inputs(seed, steps), client_timeout=CALL_LIMIT_S)
        return bytes(answer.as_numpy("video")[0])

    def leave(after_s: float) -> None:
        call = client.async_infer(PYTRITON_MODEL, _inputs(0, None), callback=lambda result, error: None)
        time.sleep(after_s)
        call.cancel()

    return VideoServer("pytriton", generate, leave)


def fastapi(url: str) -> VideoServer:
    """Return the client of the FastAPI server: HTTP. `leave` closes the connection."""
    address = urlsplit(url).netloc

    def send_request(seed: int, steps: int | None) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(address, timeout=CALL_LIMIT_S)
        body = json.dumps({"prompt": PROMPT, "seed": seed, "num_inference_steps": steps})
        connection.request("POST", "/generate", body, {"Content-Type": "application/json"})
        return connection

    def generate(seed: int, steps: int | None) -> bytes:
        with contextlib.closing(send_request(seed, steps)) as connection:
            answer = connection.getresponse()
            video = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"FastAPI answered {answer.status}: {video[:200]!r}")
        return video

    def leave(after_s: float) -> None:
        with contextlib.closing(send_request(0, None)):
            time.sleep(after_s)

    return VideoServer("fastapi", generate, leave)


def _inputs(seed: int, steps: int | None) -> list[Any]:
    given: dict[str, tuple[str, Any, Any]] = {
        "prompt": ("BYTES", np.object_, PROMPT.encode()),
        "seed": ("INT64", np.int64, seed),
    }
    if steps is not None:
        given["num_inference_steps"] = ("INT32", np.int32, steps)
    tensors = []
    for name, (datatype, dtype, value) in given.items():
        tensor = tritonclient.grpc.InferInput(name, [1], datatype)
        tensor.set_data_from_numpy(np.array([value], dtype=dtype))
        tensors.append(tensor)
    return tensors
