"""Calls of the inner models, and the check that they neither leave nor remove marks in the run directory."""

import contextlib
import secrets
from collections.abc import Callable, Iterator

import numpy as np

from embedded.server import Server
from tests.server.calls import samples
from tests.stress.fuzz.doors import EMPTY, GrpcDoor
from tests.stress.fuzz.inner_models import INNER_CLASSES, signed_settings
from tests.waiting import becomes_true
from wan_t2v.operate.load import Load, load_of
from wan_t2v.operate.run_directory import FINISHING, RunDirectory

SETTLED_S = 60.0
FAILED = 'outcome="failed"'
ENGINES_OWN = "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT"  # ONNX Runtime's own refusal of a graph's inputs
Called = Callable[[int], tuple[str, str | None]]


@contextlib.contextmanager
def inner_models_called(server: Server, *, seed: int) -> Iterator[tuple[Called, Callable[[], list[str]]]]:
    """Yield a function that sends call number `index`, and one that returns the faults after all calls.

    Inside the context another clip is marked as finishing. No call may remove that mark.
    """
    run, other = RunDirectory(server.run_directory), secrets.token_hex(16)
    signed, failed = signed_settings(server.grpc_url), _failed(server)
    with run.exclusive():
        run.mark(FINISHING, other)

    def called(index: int) -> tuple[str, str | None]:
        return _sent(server, index, seed=seed, signed=signed)

    def left_behind() -> list[str]:
        faults = [] if _settled(run, finishing=1) else [f"marks after calls of inner models: {load_of(run)}"]
        counted = _failed(server) - failed
        return [*faults, *([f"{counted:g} of them count as failures of the server"] if counted else [])]

    try:
        yield called, left_behind
    finally:
        with run.exclusive():
            run.unmark(FINISHING, other)


def _sent(server: Server, index: int, *, seed: int, signed: bytes) -> tuple[str, str | None]:
    name = list(INNER_CLASSES)[index % len(INNER_CLASSES)]
    call = INNER_CLASSES[name](np.random.default_rng((seed, index)), signed)
    try:
        refusal = GrpcDoor(server.grpc_url, call.model).send(call.bad)
    except OSError as error:
        return name, f"{name}, number {index}: the server is gone: {error}"
    unfair = f"{name}, {call.model}, number {index}: {refusal.code} {refusal.text[:200]}"
    cached = refusal.code == EMPTY and call.model == "text_encoder"
    return name, None if refusal.is_fair or cached or ENGINES_OWN in refusal.text else unfair


def _failed(server: Server) -> float:
    return sum(value for name, value in samples(server).items() if FAILED in name)


def _settled(run: RunDirectory, *, finishing: int) -> bool:
    """Wait until only `finishing` marks are left. A call of `prepare` holds its slot for five seconds."""

    def at_rest(load: Load) -> bool:
        return not (load.in_flight or load.queued) and load.finishing == finishing

    return becomes_true(lambda: at_rest(load_of(run)), SETTLED_S)
