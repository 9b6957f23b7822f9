"""Seeded mixed load over both endpoints and protocols: videos, cancellations, deadlines, bad requests, bursts.

Some requests call the inner models, and some send refused tensors of growing size.
"""

import base64
import hashlib
import itertools
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from wan_t2v_client import ClientError, Connection, TextToVideo

from embedded.server import Server
from tests.stress.faults.callers import WAYS, begun
from tests.stress.faults.messages import Failed, grpc_messages, http_messages
from tests.stress.fuzz.bad_requests import CLASSES, ONLY_OVER_GRPC, Bad, Sent, request
from tests.stress.fuzz.doors import EMPTY, STREAM, UNARY, GrpcDoor, HttpDoor, Refusal
from tests.stress.fuzz.inner_calls import ENGINES_OWN
from tests.stress.fuzz.inner_models import INNER_CLASSES, signed_settings
from tests.stress.soak.endings import Ending

# A mix of sizes, steps, guidance and output types. Each is requested repeatedly.
REQUESTS: dict[str, dict[str, Any]] = {
    "smallest": {"height": 16, "width": 16, "num_frames": 1, "num_inference_steps": 1, "seed": 1},
    "small": {"height": 32, "width": 48, "num_frames": 5, "num_inference_steps": 4, "seed": 2},
    "upright": {"height": 96, "width": 64, "num_frames": 9, "num_inference_steps": 6, "seed": 3},
    "one frame": {"height": 128, "width": 128, "num_frames": 1, "num_inference_steps": 8, "seed": 4},
    "without guidance": {"height": 64, "width": 64, "num_frames": 13, "num_inference_steps": 6, "seed": 5,
                         "guidance_scale": 1.0, "guidance_scale_2": 1.0},
    "many steps": {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 40, "seed": 6},
    "default size": {"num_inference_steps": 10, "seed": 7},
    "two calls of the VAE": {"height": 48, "width": 32, "num_frames": 29, "num_inference_steps": 4, "seed": 12},
    "latents": {"height": 64, "width": 96, "num_frames": 5, "num_inference_steps": 4, "seed": 8,
                "output_type": "latents"},
    "frames": {"height": 48, "width": 80, "num_frames": 9, "num_inference_steps": 4, "seed": 9,
               "output_type": "frames"},
}  # fmt: skip
BURST = "smallest"
LONG = {"height": 64, "width": 64, "num_frames": 5, "num_inference_steps": 300, "seed": 10}
LEAVING = {**LONG, "num_inference_steps": 60}
ENDPOINTS = ("gRPC unary", "gRPC stream", "HTTP unary", "HTTP stream")
SHARES = {"video": 50, "cancelled": 10, "left": 8, "deadline": 10, "bad": 13, "inner": 4, "growing": 2, "burst": 3}
# Growing widths of invalid latents. Triton 2.51 never frees the largest of its refused tensors (docs/run/security.md),
# so the widths start again before they are large.
GROWING = tuple(2**doubled for doubled in range(10, 17))  # 64 KiB to 4 MiB
# Few seeds for calls of inner models, so that each call is made once before the load. The largest of their refused
# tensors are not freed either.
INNER_SEEDS = (0, 1)
AT_ONCE = 20  # requests of a burst, more than the embedded server has slots
PAUSE_S = 0.5  # longest pause between two requests of a client
LIMIT_S = 180.0


@dataclass
class Traffic:
    """Load for one server. `right` has the digest of the answer to each request on the idle server."""

    server: Server
    seed: int
    right: dict[str, str] = field(init=False)
    _signed: bytes = field(init=False)
    _grown: Iterator[int] = field(init=False)

    def __post_init__(self) -> None:
        self._signed = signed_settings(self.server.grpc_url)
        self._grown = itertools.cycle(GROWING)
        for name, seed in itertools.product(INNER_CLASSES, INNER_SEEDS):
            self._call_inner(name, seed)
        self.right = {}
        for name, fields in REQUESTS.items():
            answers, error = self._ask("gRPC stream", fields)
            if len(answers) != 1:
                raise RuntimeError(f"{name} was not served while nothing else ran: {len(answers)} answers {error}")
            self.right[name] = answers[0]

    def client(self, number: int, *, ended: Callable[[], bool], tell: Callable[[Ending], None]) -> None:
        """Run one client: send requests until `ended()`, and report each ending to `tell`."""
        draw = random.Random(f"{self.seed}-{number}")
        do = {"video": self._video, "cancelled": self._cancelled, "deadline": self._deadline, "bad": self._bad}
        do |= {"left": self._left, "inner": self._inner, "growing": self._growing}
        while not ended():
            (kind,) = draw.choices(list(SHARES), list(SHARES.values()))
            for ending in self._burst(draw) if kind == "burst" else [do[kind](draw)]:
                tell(ending)
            time.sleep(draw.uniform(0, PAUSE_S))

    def _video(self, draw: random.Random) -> Ending:
        name, door = draw.choice(list(REQUESTS)), draw.choice(ENDPOINTS)
        fields = dict(REQUESTS[name])
        if door.startswith("HTTP") and "output_type" in fields:
            door = door.replace("HTTP", "gRPC")  # large tensors as JSON are not a use case of HTTP
        if door == "gRPC stream" and draw.random() < 0.5:
            fields["preview_every"] = draw.randint(1, 4)
        answers, error = self._ask(door, fields)
        return Ending("video", door, name, tuple(answers), expected=self.right[name], error=error)

    def _cancelled(self, draw: random.Random) -> Ending:
        """Send a request, and cancel it after some steps or in the queue."""
        steps = draw.randint(1, 60)
        answers: list[str] = []
        error = ""
        try:
            with grpc_messages(self.server.grpc_url, LONG) as messages:
                for message in messages:
                    answers += [] if message.answer is None else [_digest(message.answer)]
                    if (message.step or 0) >= steps:
                        break
        except Failed as failed:
            error = str(failed)
        return Ending("cancelled", "gRPC stream", f"after {steps} steps", tuple(answers), error=error, left=True)

    def _left(self, draw: random.Random) -> Ending:
        """Send a request and disconnect, over a protocol and endpoint other than the gRPC stream."""
        way, after_s = draw.choice(WAYS), draw.uniform(0.0, 1.0)
        gone = begun(self.server, way, LEAVING)
        time.sleep(after_s)
        gone()
        return Ending("left", way, f"after {after_s:.1f} s", left=True)

    def _inner(self, draw: random.Random) -> Ending:
        """Call an inner model directly."""
        return self._call_inner(draw.choice(list(INNER_CLASSES)), draw.choice(INNER_SEEDS))

    def _call_inner(self, name: str, seed: int) -> Ending:
        call = INNER_CLASSES[name](np.random.default_rng(seed), self._signed)
        refusal = GrpcDoor(self.server.grpc_url, call.model).send(call.bad)
        cached = refusal.code == EMPTY and call.model == "text_encoder"  # a cached failure
        if cached or ENGINES_OWN in refusal.text:  # such as for a token beyond the vocabulary
            refusal = Refusal("INVALID_ARGUMENT", refusal.text)
        return _refused("inner", call.model, name, refusal)

    def _growing(self, draw: random.Random) -> Ending:
        """Send a refused tensor that is larger than the last one."""
        width, model = next(self._grown), draw.choice((UNARY, STREAM))
        latents = Sent("FP32", np.zeros((1, 16, 1, 1, width), np.float32))
        refusal = GrpcDoor(self.server.grpc_url, model).send(Bad(request(latents=latents)))
        return _refused("growing", f"gRPC {model}", f"{width} wide", refusal)

    def _deadline(self, draw: random.Random) -> Ending:
        """Send a request with a deadline that is met only sometimes."""
        name, door, limit_s = "many steps", draw.choice(("gRPC unary", "gRPC stream")), draw.uniform(0.1, 6.0)
        answers, error = self._ask(door, REQUESTS[name], limit_s=limit_s)
        return Ending("deadline", door, f"{limit_s:.1f} s", tuple(answers), expected=self.right[name], error=error)

    def _bad(self, draw: random.Random) -> Ending:
        name, door = draw.choice(list(CLASSES)), draw.choice(ENDPOINTS)
        if name in ONLY_OVER_GRPC:
            door = door.replace("HTTP", "gRPC")
        model = UNARY if door.endswith("unary") else STREAM
        sender = (
            GrpcDoor(self.server.grpc_url, model) if door.startswith("gRPC") else HttpDoor(self.server.http_url, model)
        )
        refusal = sender.send(CLASSES[name](np.random.default_rng(draw.getrandbits(32))))
        return _refused("bad", door, name, refusal)

    def _burst(self, draw: random.Random) -> Iterator[Ending]:
        """Send more concurrent requests than there are slots."""
        doors = [draw.choice(ENDPOINTS[:2]) for _ in range(AT_ONCE)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for door, (answers, error) in zip(
                doors, pool.map(lambda door: self._ask(door, REQUESTS[BURST]), doors), strict=True
            ):
                yield Ending("burst", door, BURST, tuple(answers), expected=self.right[BURST], error=error)

    def _ask(self, door: str, fields: Mapping[str, Any], limit_s: float = LIMIT_S) -> tuple[list[str], str]:
        """Send a request, and return the digests of all answers, and the error."""
        try:
            return [_digest(answer) for answer in self._answers(door, fields, limit_s)], ""
        except (Failed, ClientError) as error:
            return [], f"{type(error).__name__}: {error}"

    def _answers(self, door: str, fields: Mapping[str, Any], limit_s: float) -> list[bytes]:
        if door == "HTTP unary":
            return [_generated(self.server.http_url, fields)]
        if door == "gRPC unary":
            with TextToVideo(Connection(self.server.grpc_url)) as client:
                generation = client.generate_unary("a red ball", deadline_s=limit_s, **fields)
            arrays = (generation.frames, generation.latents)
            return [(generation.video or b"") + b"".join(array.tobytes() for array in arrays if array is not None)]
        if door == "HTTP stream":
            stream = http_messages(self.server.http_url, fields)
        else:
            stream = grpc_messages(self.server.grpc_url, fields, {"timeout": int(limit_s * 1e6)})
        with stream as messages:
            return [message.answer for message in messages if message.answer is not None]


def _refused(kind: str, door: str, name: str, refusal: Refusal) -> Ending:
    told = f"{refusal.code}: {refusal.text[:200]}"
    return Ending(kind, door, name, error=f"refused fairly: {told}" if refusal.is_fair else told)


def _generated(url: str, fields: Mapping[str, Any]) -> bytes:
    """Request an MP4 from the unary endpoint over HTTP. Raises Failed."""
    body = json.dumps({"prompt": "a red ball", "video_encoding": "base64", **fields}).encode()
    try:
        with urllib.request.urlopen(f"{url}/v2/models/{UNARY}/generate", body, timeout=LIMIT_S) as answer:
            return base64.b64decode(json.load(answer)["video"])
    except urllib.error.HTTPError as error:
        raise Failed(str(error.code), error.read().decode(errors="replace")) from None


def _digest(answer: bytes) -> str:
    return hashlib.sha256(answer).hexdigest()[:16]
