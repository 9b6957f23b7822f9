"""A killed process in the middle of a video: the same key again goes on where it was and ends in the same bytes."""

import json
import os
import queue
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc

from embedded.options import ServerOptions
from embedded.server import Server, running_server
from tests.server.calls import SMALL, inputs, unary
from wan_t2v.operate.processes import stub_pids

FIELDS = {**SMALL, "num_inference_steps": 8}  # six steps of the high-noise expert, two of the other
STREAM = "text_to_video_stream"
REPAIRED_S = 60.0


@pytest.fixture
def keeping(options: ServerOptions, tmp_path: Path) -> ServerOptions:
    """Options of a server that keeps checkpoints after every step."""
    for model in ("denoiser", STREAM):
        with (options.repository / model / "configs/cpu.pbtxt").open("a", encoding="utf-8") as config:
            for name, value in (("checkpoint_folder", tmp_path / "checkpoints"), ("checkpoint_every", 1)):
                config.write(f'parameters {{ key: "{name}", value {{ string_value: "{value}" }} }}\n')
    return options


class Stream:
    """One request at the streaming door, heard message by message."""

    def __init__(self, server: Server, key: str, fields: dict[str, Any] = FIELDS) -> None:
        self._heard: queue.Queue[Any] = queue.Queue()
        self._client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
        self._client.start_stream(lambda result, error: self._heard.put(error or result))
        self._client.async_stream_infer(STREAM, inputs(fields), parameters={"idempotency_key": key})

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()

    def next(self) -> Any:
        return self._heard.get(timeout=120)

    def until_step(self, step: int) -> None:
        while True:
            message = self.next()
            assert not isinstance(message, Exception), message
            if json.loads(message.as_numpy("progress")[0])["step"] == step:
                return

    def video(self) -> tuple[bytes, dict[str, Any]]:
        """Raises the stream's error."""
        while True:
            message = self.next()
            if isinstance(message, Exception):
                raise message
            if message.as_numpy("video") is not None:
                return bytes(message.as_numpy("video")[0]), json.loads(message.as_numpy("metadata")[0])


def video_when_repaired(server: Server, key: str) -> tuple[bytes, dict[str, Any]]:
    until = time.monotonic() + REPAIRED_S
    while True:
        try:
            with Stream(server, key) as again:
                return again.video()
        except tritonclient.utils.InferenceServerException:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def test_after_a_kill_the_same_key_goes_on_and_gives_the_same_bytes(server: Server, keeping: ServerOptions) -> None:
    expected = unary(server, FIELDS)
    with running_server(keeping) as victim:
        for step in (2, 7, 8):  # in both experts' halves, and while it is decoded
            with Stream(victim, f"order-{step}") as stream:
                stream.until_step(step)
                os.kill(min(stub_pids(victim.pid)[STREAM]), signal.SIGKILL)
            video, metadata = video_when_repaired(victim, f"order-{step}")
            assert video == expected
            assert step <= metadata["resumed_after_step"] <= 8
        with Stream(victim, "order-8") as again:
            assert again.video()[0] == expected, "made already, so only decoded again"
        assert unary(victim, FIELDS, parameters={"idempotency_key": "order-2"}) == expected, "at the other door too"


def test_duplicates_other_requests_and_servers_without_a_folder_are_told(
    server: Server, keeping: ServerOptions
) -> None:
    with running_server(keeping) as kept:
        with Stream(kept, "one", {**FIELDS, "num_inference_steps": 400}) as first:
            first.until_step(1)
            with Stream(kept, "one") as second, pytest.raises(Exception, match="'one' is being worked on"):
                second.video()
        with Stream(kept, "two") as first:
            first.video()
        refused = unary(kept, {**FIELDS, "seed": 6}, parameters={"idempotency_key": "two"})
        assert "StatusCode.INVALID_ARGUMENT" in refused and "was used for a request with other fields" in refused
        unseeded = {name: value for name, value in FIELDS.items() if name != "seed"}
        videos = {unary(kept, unseeded, parameters={"idempotency_key": "three"}) for _ in range(2)}
        assert len(videos) == 1 and isinstance(videos.pop(), bytes), "without a seed it follows from the key"
    without = unary(server, FIELDS, parameters={"idempotency_key": "one"})
    assert "this server keeps no checkpoints" in without
    empty = unary(server, FIELDS, parameters={"idempotency_key": ""})
    assert "idempotency_key: got ''; accepted: a text of 1 to 256 characters" in empty
