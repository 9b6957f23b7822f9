"""Faults injected into a running server, with the outcomes for callers and server."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import tritonclient.grpc

from tests.child_process import child_process
from tests.stress.faults.footprint import Footprint
from tests.stress.faults.harmed_repository import PLACES, TEXT_CACHE_BYTES, HarmedRepository, filled
from tests.stress.faults.messages import Message, grpc_messages, http_messages
from tests.stress.faults.victim import ENDPOINTS, LARGE, LEAK, LONG, SMALL, Outcome, Victim, holds_no_place
from wan_t2v.operate.load import load_of
from wan_t2v.operate.processes import stub_pids

MARKED = {**SMALL, "height": 64, "width": 64, "num_inference_steps": 8}  # its size is unique among the requests
MARKED_LATENTS = (8, 8)
# The timestep below which an expert fails: after the generation's second step, and at the switch of experts.
HALVES = {"high_noise_expert": 980.0, "low_noise_expert": 875.0}
EXPECTED = {
    "nan": r"NonFiniteVelocity: step \d of 8, timestep \d+: {expert} gave a velocity",
    "error": r"{expert}: RuntimeError: a fault of a test: no memory for this pass",
}
# Previews at each step and frames at the end, so that there is much to read: 1 MB.
UNREAD = {**LARGE, "num_inference_steps": 60, "output_type": "frames"}
PROMPT_TOKENS, PROMPT_IDS, PROMPT_BYTES = 64, 100, 64 * 192 * 4  # of wan-mini: length, range of ids, embeddings
DECOUPLED = "text_to_video_stream"
HELD_S = 20.0  # time for allocators to settle while the client does not read
UNREAD_AT = {"gRPC": {**UNREAD, "preview_every": 1}, "HTTP": UNREAD}  # previews are bytes, which JSON cannot carry


def kill(victim: Victim, model: str, index: int) -> Outcome:
    """Kill a Python process with SIGKILL."""

    def do() -> None:
        os.kill(sorted(stub_pids(victim.server.pid)[model])[index], signal.SIGKILL)

    victim.reloaded += victim.processes[model]
    server_pid = victim.server.pid
    victim.dies = model == DECOUPLED  # Triton 2.51 can crash if this process dies during its calls
    outcome = victim.suffer(f"kill -9 {model}, process {index + 1} of {victim.processes[model]}", do)
    victim.dies = False
    again = ("tritonserver was started again",) if victim.server.pid != server_pid else ()
    return replace(outcome, callers=(*outcome.callers, *again))


def kill_the_server(victim: Victim) -> Outcome:
    """Kill tritonserver with SIGKILL, which ends all its Python processes too."""
    victim.dies = True
    outcome = victim.suffer("kill -9 tritonserver", lambda: os.kill(victim.server.pid, signal.SIGKILL))
    victim.dies = False
    others = tuple(f"a caller was told {told}" for told in outcome.callers if not told.startswith("Unavailable: "))
    return replace(outcome, faults=outcome.faults + others)


def lose_a_caller(victim: Victim) -> Outcome:
    """Kill a client's process during a stream. Its generation must stop, and other callers must not be affected."""
    code = (
        "import sys\nfrom wan_t2v_client import Connection, TextToVideo\n"
        "with TextToVideo(Connection(sys.argv[1])) as client:\n"
        f"    for told in client.stream('a red ball', **{ {**LONG, 'num_inference_steps': 1000}!r}):\n"
        "        print('told', flush=True)\n"
    )
    command = [sys.executable, "-c", code, victim.server.grpc_url]
    with child_process(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        client.stdout.readline()
        client.kill()
    began = time.monotonic()
    stopped = victim.until(holds_no_place)
    told = f"its work stopped after {time.monotonic() - began:.1f} s"
    return victim.outcome("a client that vanishes", (told,), [] if stopped else ["its work went on"], since=began)


def read_slowly(victim: Victim, protocol: str) -> Outcome:
    """Let a client stop reading while its video is generated and others get theirs, and then read everything."""
    fields = UNREAD_AT[protocol]
    expected = victim.asked("stream", UNREAD)
    before = Footprint.of_server(victim.server)
    allowed = replace(LEAK, open_files=LEAK.open_files + victim.reloaded)

    def held_more() -> list[str]:
        return Footprint.of_server(victim.server).grown_since(before, allowed)

    ask = grpc_messages if protocol == "gRPC" else http_messages
    url = victim.server.grpc_url if protocol == "gRPC" else victim.server.http_url
    with ask(url, fields) as messages:
        heard = [next(message for message in messages if message.step)]
        began = time.monotonic()
        others = {door: victim.is_right(door, victim.asked(door, SMALL)) for door in ENDPOINTS}
        made = victim.until(holds_no_place)
        victim.until(lambda load: not held_more(), limit_s=HELD_S)
        faults = held_more()
        heard += list(messages)
    faults += [f"the other caller at the {door} door got no right video" for door, right in others.items() if not right]
    faults += [] if made else ["its generation did not end"]
    faults += _incomplete(heard, expected, steps=UNREAD["num_inference_steps"])
    callers = (f"{len(heard)} messages to who read late", f"{sum(others.values())} videos to others meanwhile")
    return victim.outcome(f"a client that reads slowly over {protocol}", callers, faults, since=began)


def _incomplete(heard: list[Message], expected: bytes | str, *, steps: Any) -> list[str]:
    told = [message.step for message in heard if message.step is not None]
    answers = [message.answer for message in heard if message.answer is not None]
    return [
        *([] if told == list(range(1, steps + 1)) else [f"it was told the steps {told}"]),
        *([] if answers == [expected] else [f"it got {len(answers)} answers, right: {expected in answers}"]),
    ]


def overload(victim: Victim, count: int) -> Outcome:
    """Send more concurrent requests than there are slots. The excess must be refused with figures."""
    began = time.monotonic()
    ended = threading.Event()
    with ThreadPoolExecutor(count + 1) as pool:
        most = pool.submit(_most_under_way, victim, ended)
        told = list(pool.map(lambda index: victim.told(ENDPOINTS[index % 2], LONG), range(count)))
        ended.set()
    full = re.compile(rf"Unavailable: .*\(limit 1\) and \d wait \(limit {PLACES - 1}\); try again later")
    refused = [answer for answer in told if full.search(answer)]
    videos = told.count("video")
    faults = [answer for answer in told if answer != "video" and answer not in refused]
    faults += [] if most.result() == PLACES else [f"{most.result()} were under way at once"]
    faults += [] if videos >= PLACES else [f"only {videos} videos"]
    callers = (f"{videos} videos", f"{len(refused)} refused", f"{most.result()} under way at most")
    return victim.outcome(f"{count} requests at once, limit {PLACES}", callers, faults, since=began)


def _most_under_way(victim: Victim, ended: threading.Event) -> int:
    most = 0
    while not ended.wait(0.05):
        load = load_of(victim.run)
        most = max(most, load.in_flight + load.queued)
    return most


def fail_an_expert(victim: Victim, harmed: HarmedRepository, kind: str, *, expert: str) -> Outcome:
    """Let an expert fail during one clip at each endpoint, while clips of another size are generated."""
    with harmed.failing(kind, latents=MARKED_LATENTS, below=HALVES[expert]), ThreadPoolExecutor(4) as pool:
        began = time.monotonic()
        marked = [pool.submit(victim.asked, door, MARKED) for door in ENDPOINTS]
        others = {door: pool.submit(victim.asked, door, SMALL) for door in ENDPOINTS}
        told = [future.result() for future in marked]
    harmed_too = [door for door, other in others.items() if not victim.is_right(door, other.result())]
    faults = [f"the other caller at the {door} door got no right video" for door in harmed_too]
    expected = re.compile(EXPECTED[kind].format(expert=expert))
    for answer in told:
        if isinstance(answer, bytes):
            faults.append("a video was made of it")
        elif not expected.search(answer):
            faults.append(f"an error that does not tell: {answer}")
    callers = tuple("video" if isinstance(answer, bytes) else answer for answer in told)
    return victim.outcome(f"{expert}: {kind} in the middle", callers, faults, since=began)


def fail_the_text_encoder(victim: Victim, harmed: HarmedRepository) -> Outcome:
    """Let the text encoder fail once for a prompt. Triton caches the failure, and later requests must still succeed."""
    began = time.monotonic()
    forget_prompts(victim)
    with harmed.failing_prompt() as has_failed:
        told = [victim.asked(ENDPOINTS[0], SMALL)]
        faults = [] if has_failed() else ["the text encoder was not asked"]
    if not re.search(r"text_encoder: RuntimeError: a fault of a test: no memory for this prompt", str(told[0])):
        faults.append(f"an error that does not tell: {str(told[0])[:100]}")
    for door in (*ENDPOINTS, *ENDPOINTS):
        told.append(victim.asked(door, SMALL))
        faults += [] if victim.is_right(door, told[-1]) else [f"at the {door} endpoint then: {str(told[-1])[:100]}"]
    callers = tuple("video" if isinstance(answer, bytes) else answer for answer in told)
    return victim.outcome("text_encoder: an error for one prompt, once", callers, faults, since=began)


def forget_prompts(victim: Victim) -> None:
    """Fill Triton's response cache with other prompts, so that earlier ones are evicted."""
    random = np.random.default_rng(0)
    mask = np.ones((1, PROMPT_TOKENS), np.int64)
    with tritonclient.grpc.InferenceServerClient(victim.server.grpc_url) as client:
        for _ in range(2 * TEXT_CACHE_BYTES // PROMPT_BYTES):
            arrays = {"input_ids": random.integers(1, PROMPT_IDS, mask.shape), "attention_mask": mask}
            inputs = [tritonclient.grpc.InferInput(name, mask.shape, "INT64") for name in arrays]
            for given, array in zip(inputs, arrays.values(), strict=True):
                given.set_data_from_numpy(array)
            client.infer("text_encoder", inputs)


def fill_the_disk(victim: Victim, harmed: HarmedRepository) -> Outcome:
    """Fill the checkpoints' disk after the first step. Later the same request must resume from what was kept."""
    key = {"idempotency_key": "full"}
    expected = victim.asked("stream", MARKED)
    heard: list[Message] = []
    with grpc_messages(victim.server.grpc_url, MARKED, key) as messages:
        heard.append(next(message for message in messages if message.step))
        began = time.monotonic()
        with filled(harmed.checkpoints):
            heard += list(messages)
            victim.until(lambda _: not list(harmed.checkpoints.glob("*.lock")))  # it goes after the last message
            kept = sorted(
                path.suffix for path in harmed.checkpoints.iterdir() if path.suffix in (".lock", ".checkpoint")
            )
            met = {door: victim.is_right(door, victim.asked(door, SMALL)) for door in ENDPOINTS}
            with grpc_messages(victim.server.grpc_url, SMALL, {"idempotency_key": "no room"}) as messages:
                unkept = [message.answer for message in messages if message.answer is not None]
    with grpc_messages(victim.server.grpc_url, MARKED, key) as messages:
        last = [message for message in messages if message.answer is not None][-1]
    resumed = (last.metadata or {}).get("resumed_after_step")
    faults = _incomplete(heard, expected, steps=MARKED["num_inference_steps"])
    faults += [] if kept == [".checkpoint"] else [f"the folder held {kept}"]
    faults += [] if all(met.values()) else ["a request without a key got no right video"]
    faults += [] if [victim.is_right("stream", answer) for answer in unkept] == [True] else ["nor did one with another"]
    faults += [] if last.answer == expected and resumed else [f"taken up after step {resumed} with other bytes"]
    faults += [] if b"no checkpoint after step" in victim.server.log.read_bytes() else ["the log does not tell"]
    callers = ("video", f"again with room: video, taken up after step {resumed}")
    return victim.outcome("a full disk for checkpoints", callers, faults, since=began)
