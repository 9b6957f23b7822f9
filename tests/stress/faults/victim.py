"""Server under fault injection: its expected answers, recovery time and leaks."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from wan_t2v_client import ClientError, Connection, TextToVideo

from embedded.server import Server
from embedded.supervision.supervisor import died_log
from tests.stress.faults.footprint import SUPERVISOR, TRITON, Allowance, Footprint
from tests.waiting import becomes_true
from wan_t2v.operate.load import Load, load_of
from wan_t2v.operate.run_directory import RunDirectory

SMALL = {"num_frames": 5, "height": 32, "width": 48, "num_inference_steps": 4, "seed": 5}
LONG = {**SMALL, "num_inference_steps": 300}
LARGE = {"height": 64, "width": 64, "num_frames": 81, "num_inference_steps": 2, "seed": 5}
LIMIT_S = 180.0  # limit for a caller's answer, and for the server's recovery
SETTLED_S = 60.0  # limit for closed connections and ended processes to disappear
ENDPOINTS = ("unary", "stream")
# Compared with the server before the first fault, so that small leaks of a dozen faults add up. The supervisor opens
# five files at its first repair.
LEAK = Allowance(memory_mib=32, memory_share=0.25, open_files=10, regions=0)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a fault.

    Attributes:
        callers: result of each caller: `video`, or the kind of error and the start of its text.
        recovered_s: seconds from the fault until both endpoints returned the right bytes again.
        faults: violated requirements.
    """

    fault: str
    callers: tuple[str, ...]
    recovered_s: float
    faults: tuple[str, ...]


@dataclass
class Victim:
    """A server, with its answers and footprint before any fault."""

    server: Server
    run: RunDirectory = field(init=False)
    before: Footprint = field(init=False)
    reloaded: int = 0  # number of processes that were started again
    dies: bool = False  # whether the current fault may end tritonserver

    def __post_init__(self) -> None:
        self.run = RunDirectory(self.server.run_directory)
        self._right = {door: self.asked(door, SMALL) for door in ENDPOINTS}
        if any(isinstance(answer, str) for answer in self._right.values()):
            raise RuntimeError(f"the server did not serve before anything was done to it: {self._right}")
        for door in ENDPOINTS:  # lets allocators grow to the largest clip of all faults
            self.asked(door, LARGE)
        self.before = Footprint.of_server(self.server)

    @property
    def processes(self) -> dict[str, int]:
        """Number of Python processes by model."""
        return {model: count for model, count in self.before.processes.items() if model not in (TRITON, SUPERVISOR)}

    def instances(self, models: set[str]) -> Iterator[tuple[str, int]]:
        """Yield (model, index) of every Python process of the server, or of these models."""
        for model, count in sorted(self.processes.items()):
            if not models or model in models:
                yield from ((model, index) for index in range(count))

    def suffer(self, name: str, do: Callable[[], None]) -> Outcome:
        """Inject a fault while there is a long request at each endpoint, one running and one waiting."""
        with ThreadPoolExecutor(len(ENDPOINTS)) as pool:
            asked = [pool.submit(self.told, door, LONG) for door in ENDPOINTS]
            self.until(lambda load: load.in_flight > 0 and load.left_s is not None)
            done_at = time.monotonic()
            do()
            recovered_s, faults = self._recovered(done_at)
            callers = tuple(_ended(future, faults) for future in asked)
        return Outcome(name, callers, recovered_s, (*faults, *self.left_behind()))

    def outcome(self, name: str, callers: tuple[str, ...], faults: list[str], *, since: float) -> Outcome:
        """Complete the outcome of a fault at `since` with the server's recovery and with leftovers."""
        recovered_s, unrecovered = self._recovered(since)
        return Outcome(name, callers, recovered_s, (*faults, *unrecovered, *self.left_behind()))

    def left_behind(self, settled_s: float = SETTLED_S) -> list[str]:
        """Return leaked resources of the idle server. The supervisor cleans up after a delay, so it waits."""
        faults = []
        # a generation that died while it finished keeps its slot for minutes, see wan_t2v/operate/load.py
        if not self.until(holds_no_place):
            faults.append(f"places were not given back: {load_of(self.run)}")
        self.until(lambda load: not self._grown(), limit_s=settled_s)
        died = died_log(self.server.log)
        if died.exists() and not self.dies:
            faults.append("tritonserver died of it and was started again")
        died.unlink(missing_ok=True)
        return [*faults, *self._grown()]

    def until(self, condition: Callable[[Load], bool], limit_s: float = LIMIT_S) -> bool:
        """Wait for a condition of the load, polled every 0.1 s. Returns False if it is not met within the limit."""
        return becomes_true(lambda: condition(load_of(self.run)), limit_s, poll_s=0.1)

    def told(self, door: str, fields: dict[str, Any]) -> str:
        """Send a request, and return `video` or the error."""
        answer = self.asked(door, fields)
        return "video" if isinstance(answer, bytes) else answer

    def is_right(self, door: str, answer: bytes | str) -> bool:
        """Whether the answer is the right one to SMALL."""
        return answer == self._right[door]

    def asked(self, door: str, fields: dict[str, Any], *, limit_s: float = LIMIT_S) -> bytes | str:
        """Send a request, and return the bytes of the video or frames, or the kind of error and its text."""
        with TextToVideo(Connection(self.server.grpc_url)) as client:
            generate = client.generate_unary if door == "unary" else client.generate
            try:
                answer = generate("a red ball", deadline_s=limit_s, **fields)
            except ClientError as error:
                return f"{type(error).__name__}: {error}"
        return answer.video or (b"" if answer.frames is None else answer.frames.tobytes())

    def _recovered(self, since: float) -> tuple[float, list[str]]:
        """Return the seconds until both endpoints return the right bytes again, and faults of the recovery."""
        while time.monotonic() - since < LIMIT_S:
            answers = {door: self.asked(door, SMALL, limit_s=20) for door in ENDPOINTS}
            if answers == self._right:
                return round(time.monotonic() - since, 1), []
            if all(isinstance(answer, bytes) for answer in answers.values()):
                return LIMIT_S, ["the same request gave other bytes"]
            time.sleep(0.5)
        return LIMIT_S, [f"not served again after {LIMIT_S:g} s"]

    def _grown(self) -> list[str]:
        # Triton 2.51 never frees the shared memory of a model that was unloaded with a lost call in it
        allowed = replace(LEAK, open_files=LEAK.open_files + self.reloaded)
        return Footprint.of_server(self.server).grown_since(self.before, allowed)


def holds_no_place(load: Load) -> bool:
    """Whether no generation runs or waits."""
    return not (load.in_flight or load.queued)


def _ended(asked: Future[str], faults: list[str]) -> str:
    told = asked.result()
    if told.startswith("DeadlineExceeded"):
        faults.append("a caller was told nothing")
    return told
