"""A killed process in the middle of a video: the same key again goes on where it was and ends in the same bytes."""

import functools
import json
import os
import queue
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import tritonclient.grpc

from embedded.options import ServerOptions
from embedded.server import Server, running_server
from tests.server.calls import SMALL, inputs, unary
from tests.server.statistics import executions
from tests.stress.faults.harmed_repository import HarmedRepository, harmed_repository
from tests.waiting import wait_until
from wan_t2v.operate.processes import stub_pids
from wan_t2v.serving.resume.checkpoint_file import CheckpointFile

# Four steps of the high-noise expert, two of the other, and two calls of the decoder.
FIELDS = {**SMALL, "num_inference_steps": 6}
TIMESTEPS = (999, 983, 959, 922, 856, 705)
KILLED_AFTER = (3, 5, 6)  # steps; `make faults` kills at more moments
LATENTS = (4, 6)
STREAM = "text_to_video_stream"
REPAIRED_S = 60.0
T = TypeVar("T")


@pytest.fixture
def harmed(repository: Path, tmp_path: Path) -> HarmedRepository:
    """Keeps a checkpoint after every step, and can hold a generation between two."""
    return harmed_repository(repository, tmp_path, checkpoints=tmp_path / "checkpoints")


@pytest.fixture
def keeping(harmed: HarmedRepository, tmp_path: Path) -> ServerOptions:
    return ServerOptions(repository=harmed.path, log=tmp_path / "server.log", start_limit_s=600)


class Stream:
    """One request at the streaming endpoint, heard message by message."""

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
        deadline = time.monotonic() + 120  # heartbeats would go on for ever
        while True:
            assert time.monotonic() < deadline, f"step {step} was not told"
            message = self.next()
            assert not isinstance(message, Exception), message
            told = message.as_numpy("progress")  # None in a heartbeat
            if told is not None and json.loads(told[0])["step"] == step:
                return

    def video(self) -> tuple[bytes, dict[str, Any]]:
        """Raises the stream's error."""
        while True:
            message = self.next()
            if isinstance(message, Exception):
                raise message
            if message.as_numpy("video") is not None:
                return bytes(message.as_numpy("video")[0]), json.loads(message.as_numpy("metadata")[0])


def when_repaired(ask: Callable[[], T]) -> T:
    until = time.monotonic() + REPAIRED_S
    while True:
        try:
            return ask()
        except tritonclient.utils.InferenceServerException:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def asked_again(server: Server, key: str) -> tuple[bytes, dict[str, Any]]:
    with Stream(server, key) as again:
        return again.video()


def first_frames(server: Server) -> int:
    """How often the decoder's first graph has run."""
    return executions(server.grpc_url, "vae_decoder_first")


def kill_after(step: int, victim: Server, harmed: HarmedRepository) -> None:
    """Kill the streaming endpoint's process when this step is kept and told: it waits for the next, or for the decoder."""
    decoded = first_frames(victim)
    with (
        harmed.failing("hold", latents=LATENTS, below=TIMESTEPS[step - 1]),
        Stream(victim, f"order-{step}", FIELDS) as stream,
    ):
        stream.until_step(step)
        if step == len(TIMESTEPS):  # the decoder's second call is held
            wait_until(lambda: first_frames(victim) > decoded)
        os.kill(min(stub_pids(victim.pid)[STREAM]), signal.SIGKILL)


def test_after_a_kill_the_same_key_goes_on_at_its_checkpoint_and_gives_the_same_bytes(
    keeping: ServerOptions, harmed: HarmedRepository
) -> None:
    """In the steps of either expert, and in the middle of decoding: after the first frame, before the others."""
    with running_server(keeping) as victim:
        expected = unary(victim, FIELDS)
        for step in KILLED_AFTER:
            kill_after(step, victim, harmed)
            video, metadata = when_repaired(functools.partial(asked_again, victim, f"order-{step}"))
            assert video == expected
            assert (metadata["resumed_after_step"], metadata["timesteps"]) == (step, list(TIMESTEPS))
            assert metadata["steps"] == {"high_noise_expert": 4, "low_noise_expert": 2}
        with Stream(victim, "order-6") as again:
            assert again.video()[0] == expected, "made already, so only decoded again"
        assert unary(victim, FIELDS, parameters={"idempotency_key": "order-3"}) == expected, "at the other endpoint too"


def asked_unary(server: Server, key: str) -> tuple[bytes, dict[str, Any]]:
    """Raises InferenceServerException."""
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer("text_to_video", inputs(FIELDS), parameters={"idempotency_key": key})
        return bytes(answer.as_numpy("video")[0]), json.loads(answer.as_numpy("metadata")[0])


def steps_kept(folder: Path) -> int:
    """Of the one checkpoint in the folder; 0 if there is none yet."""
    for path in folder.glob("*.checkpoint"):
        return CheckpointFile.from_bytes(path.read_bytes()).saved.steps_done
    return 0


def test_after_a_kill_at_the_unary_endpoint_the_same_key_goes_on_there(
    keeping: ServerOptions, harmed: HarmedRepository
) -> None:
    with running_server(keeping) as victim, ThreadPoolExecutor(1) as pool:
        expected = unary(victim, FIELDS)
        with harmed.failing("hold", latents=LATENTS, below=TIMESTEPS[2]):
            first = pool.submit(asked_unary, victim, "one")
            wait_until(lambda: first.done() or steps_kept(harmed.checkpoints) >= 3)
            assert not first.done()
            for denoiser in stub_pids(victim.pid)["denoiser"]:
                os.kill(denoiser, signal.SIGKILL)
            with pytest.raises(tritonclient.utils.InferenceServerException):
                first.result(timeout=REPAIRED_S)
        video, metadata = when_repaired(lambda: asked_unary(victim, "one"))
    assert (video, metadata["resumed_after_step"]) == (expected, 3)


def test_duplicates_other_requests_and_servers_without_a_folder_are_told(
    server: Server, keeping: ServerOptions
) -> None:
    with running_server(keeping) as kept:
        with Stream(kept, "one", {**FIELDS, "num_inference_steps": 900}) as first:
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
