"""Kills after each step of a clip with an idempotency key. The same key must resume there and give the same bytes."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests.server.calls import inputs
from tests.server.statistics import executions
from tests.stress.faults.harmed_repository import HarmedRepository
from tests.stress.faults.messages import Failed, Message, grpc_messages
from tests.stress.faults.victim import LIMIT_S, SMALL, Outcome, Victim
from wan_t2v.operate.processes import stub_pids
from wan_t2v.serving.resume.checkpoint_file import CheckpointFile

STREAM, UNARY, DENOISER = "text_to_video_stream", "text_to_video", "denoiser"
FIRST_GRAPH = "vae_decoder_first"
# Both experts run in it, and its size is unique among the requests.
KEPT = {**SMALL, "height": 32, "width": 32, "num_inference_steps": 6}
KEPT_LATENTS = (4, 4)
Held = contextlib.AbstractContextManager[None]


def kill_after_each_step(victim: Victim, harmed: HarmedRepository) -> Iterator[Outcome]:
    """Kill after each step at both endpoints; at the streaming one also during decoding."""
    expected = _streamed(victim, {})
    timesteps = (expected.metadata or {})["timesteps"]
    for step in range(1, len(timesteps) + 1):
        yield _killed(victim, harmed, STREAM, step=step, expected=expected)
    for step in range(1, len(timesteps)):
        yield _killed(victim, harmed, UNARY, step=step, expected=expected)


def _killed(victim: Victim, harmed: HarmedRepository, endpoint: str, *, step: int, expected: Message) -> Outcome:
    timesteps = (expected.metadata or {})["timesteps"]
    key = {"idempotency_key": f"{endpoint}-{step}"}
    held = harmed.failing("hold", latents=KEPT_LATENTS, below=timesteps[step - 1])
    if endpoint == STREAM:
        told = _killed_streaming(victim, held, key, step=step, last=step == len(timesteps))
    else:
        told = _killed_unary(victim, harmed, held, key=key, step=step)
    killed_at = time.monotonic()
    again = _when_repaired(victim, key, endpoint)
    resumed = (again.metadata or {}).get("resumed_after_step")
    faults = [] if again.answer == expected.answer else ["the same key gave no or other bytes"]
    faults += [] if resumed == step else [f"it went on after step {resumed}"]
    model = STREAM if endpoint == STREAM else DENOISER
    victim.reloaded += victim.processes[model]
    name = f"kill -9 {model} after step {step} of {len(timesteps)} with an idempotency key"
    return victim.outcome(name, (told, f"again: taken up after step {resumed}"), faults, since=killed_at)


def _killed_streaming(victim: Victim, held: Held, key: dict[str, str], *, step: int, last: bool) -> str:
    """Kill the stream's process after a step, and disconnect.

    Triton 2.51 does not end the stream of a dead process; the client library detects it with a watchdog.
    """
    url = victim.server.grpc_url
    decoded = executions(url, FIRST_GRAPH) if last else 0
    with held, grpc_messages(url, KEPT, key) as messages:  # hold first, or the step may have passed
        next(message for message in messages if message.step == step)
        while last and executions(url, FIRST_GRAPH) == decoded:  # the decoder's second call is held
            time.sleep(0.05)
        os.kill(min(stub_pids(victim.server.pid)[STREAM]), signal.SIGKILL)
    return "left"


def _killed_unary(victim: Victim, harmed: HarmedRepository, held: Held, *, key: dict[str, str], step: int) -> str:
    before, told = set(harmed.checkpoints.iterdir()), list[str]()
    asking = threading.Thread(target=lambda: told.append(_told(victim, key)), daemon=True)
    with held:
        asking.start()
        victim.until(lambda load: step in _steps_kept(harmed, before))
        for denoiser in stub_pids(victim.server.pid)[DENOISER]:
            os.kill(denoiser, signal.SIGKILL)
    asking.join(LIMIT_S)
    return told[0] if told else "a caller was told nothing"


def _steps_kept(harmed: HarmedRepository, before: set[Path]) -> list[int]:
    """Return the numbers of finished steps in the new checkpoints."""
    new = set(harmed.checkpoints.glob("*.checkpoint")) - before
    return [CheckpointFile.from_bytes(path.read_bytes()).saved.steps_done for path in new]


def _told(victim: Victim, key: Mapping[str, Any]) -> str:
    try:
        _unary(victim, key)
    except Failed as error:
        return str(error)
    return "video"


def _when_repaired(victim: Victim, key: Mapping[str, Any], endpoint: str) -> Message:
    """Repeat the request with the same key until it is answered. Returns an empty message after the limit."""
    until = time.monotonic() + LIMIT_S
    while True:
        try:
            return _unary(victim, key) if endpoint == UNARY else _streamed(victim, key)
        except Failed:
            if time.monotonic() > until:
                return Message()
            time.sleep(0.5)


def _streamed(victim: Victim, key: Mapping[str, Any]) -> Message:
    with grpc_messages(victim.server.grpc_url, KEPT, key) as messages:
        return [message for message in messages if message.answer is not None][-1]


def _unary(victim: Victim, key: Mapping[str, Any]) -> Message:
    with tritonclient.grpc.InferenceServerClient(victim.server.grpc_url) as client:
        try:
            answer = client.infer(UNARY, inputs(KEPT), parameters=dict(key), client_timeout=LIMIT_S)
        except InferenceServerException as error:
            raise Failed(str(error.status()), error.message() or "") from None
    return Message(answer=bytes(answer.as_numpy("video")[0]), metadata=json.loads(answer.as_numpy("metadata")[0]))
