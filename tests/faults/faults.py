"""Faults that are done to a running server, and what became of the callers and of the server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from wan_t2v_client import ClientError, Connection, TextToVideo

from embedded.server import Server
from embedded.supervisor import SHM_PREFIX
from wan_t2v.operate.load import Load, load_of
from wan_t2v.operate.processes import stub_pids
from wan_t2v.operate.run_directory import RunDirectory

SMALL = {"num_frames": 5, "height": 32, "width": 48, "num_inference_steps": 4, "seed": 5}
LONG = {**SMALL, "num_inference_steps": 300}
LIMIT_S = 180.0  # for a caller to be told, and for the server to serve again
DOORS = ("unary", "stream")


@dataclass(frozen=True)
class Outcome:
    """What a fault did.

    Attributes:
        callers: what each caller got: `video`, or the kind of error and the start of its text.
        recovered_s: seconds from the fault until both doors gave the right bytes again.
        faults: what was not as it must be.
    """

    fault: str
    callers: tuple[str, ...]
    recovered_s: float
    faults: tuple[str, ...]


class Victim:
    """A server, what it must answer, and how many processes and shared-memory regions it has while nothing is wrong."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.run = RunDirectory(server.run_directory)
        self._right = {door: self._asked(door, SMALL, limit_s=LIMIT_S) for door in DOORS}
        if any(isinstance(answer, str) for answer in self._right.values()):
            raise RuntimeError(f"the server did not serve before anything was done to it: {self._right}")
        self.processes = self._living()
        self._regions = self._shared_memory()

    def instances(self, models: set[str]) -> Iterator[tuple[str, int]]:
        """Every Python process of the server, or of these models: model and index."""
        for model, count in sorted(self.processes.items()):
            if not models or model in models:
                yield from ((model, index) for index in range(count))

    def suffer(self, name: str, do: Callable[[], None]) -> Outcome:
        """Do it while a long request runs at each door (one runs, one waits), and watch."""
        with ThreadPoolExecutor(len(DOORS)) as pool:
            asked = [pool.submit(self._told, door, LONG) for door in DOORS]
            self._until(lambda load: load.in_flight > 0 and load.left_s is not None)
            done_at = time.monotonic()
            do()
            recovered_s, faults = self._recovered(done_at)
            callers = tuple(self._ended(future, faults) for future in asked)
        return Outcome(name, callers, recovered_s, (*faults, *self._left_behind()))

    def kill(self, model: str, index: int) -> Outcome:
        """kill -9 of a Python process."""

        def do() -> None:
            os.kill(sorted(stub_pids(self.server.pid)[model])[index], signal.SIGKILL)

        return self.suffer(f"kill -9 {model}, process {index + 1} of {self.processes[model]}", do)

    def lose_a_caller(self) -> Outcome:
        """A client's process is killed in the middle of a stream: its work must stop, the others must not notice."""
        code = (
            "import sys\nfrom wan_t2v_client import Connection, TextToVideo\n"
            "with TextToVideo(Connection(sys.argv[1])) as client:\n"
            f"    for told in client.stream('a red ball', **{ {**LONG, 'num_inference_steps': 1000}!r}):\n"
            "        print('told', flush=True)\n"
        )
        command = [sys.executable, "-c", code, self.server.grpc_url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            client.stdout.readline()
            client.kill()
        began = time.monotonic()
        stopped = self._until(_holds_no_place)
        stopped_s = round(time.monotonic() - began, 1)
        faults = () if stopped else ("its work went on",)
        told = f"its work stopped after {stopped_s} s"
        recovered_s, more = self._recovered(began)
        return Outcome("a client that vanishes", (told,), recovered_s, (*faults, *more, *self._left_behind()))

    def overload(self, count: int) -> Outcome:
        """More requests at once than there are places: each is served or refused with the figures."""
        began = time.monotonic()
        with ThreadPoolExecutor(count) as pool:
            ended = list(pool.map(lambda index: self._told(DOORS[index % 2], SMALL), range(count)))
        refused = [answer for answer in ended if "are under way (limit" in answer]
        videos = ended.count("video")
        faults = [answer for answer in ended if answer != "video" and answer not in refused]
        callers = (f"{videos} videos", f"{len(refused)} refused")
        recovered_s, more = self._recovered(began)
        return Outcome(f"{count} requests at once", callers, recovered_s, (*faults, *more, *self._left_behind()))

    def _recovered(self, since: float) -> tuple[float, list[str]]:
        """Seconds until both doors give the right bytes again, and what was wrong with that."""
        while time.monotonic() - since < LIMIT_S:
            answers = {door: self._asked(door, SMALL, limit_s=20) for door in DOORS}
            if answers == self._right:
                return round(time.monotonic() - since, 1), []
            if all(isinstance(answer, bytes) for answer in answers.values()):
                return LIMIT_S, ["the same request gave other bytes"]
            time.sleep(0.5)
        return LIMIT_S, [f"not served again after {LIMIT_S:g} s"]

    def _left_behind(self) -> list[str]:
        """What is still there when nobody uses it any more; the supervisor takes its time to be sure of that."""
        faults = []
        # what is finishing and died on the way is forgotten minutes later, see wan_t2v/operate/load.py
        if not self._until(_holds_no_place):
            faults.append(f"places were not given back: {load_of(self.run)}")
        if not self._until(lambda load: self._living() == self.processes):
            faults.append(f"processes are {self._living()}, they were {self.processes}")
        if not self._until(lambda load: self._shared_memory() <= self._regions):
            faults.append(f"{self._shared_memory()} regions of shared memory, there were {self._regions}")
        return faults

    def _living(self) -> dict[str, int]:
        return {model: len(pids) for model, pids in stub_pids(self.server.pid).items()}

    def _shared_memory(self) -> int:
        return len(list(Path("/dev/shm").glob(f"{SHM_PREFIX}{self.server.supervisor_pid}_*")))

    def _until(self, condition: Callable[[Load], bool]) -> bool:
        deadline = time.monotonic() + LIMIT_S
        while not condition(load_of(self.run)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def _ended(self, asked: Future[str], faults: list[str]) -> str:
        told = asked.result()
        if told.startswith("DeadlineExceeded"):
            faults.append("a caller was told nothing")
        return told

    def _told(self, door: str, fields: dict[str, int]) -> str:
        answer = self._asked(door, fields, limit_s=LIMIT_S)
        return "video" if isinstance(answer, bytes) else answer

    def _asked(self, door: str, fields: dict[str, int], *, limit_s: float) -> bytes | str:
        with TextToVideo(Connection(self.server.grpc_url)) as client:
            generate = client.generate_unary if door == "unary" else client.generate
            try:
                return generate("a red ball", deadline_s=limit_s, **fields).video or b""
            except ClientError as error:
                return f"{type(error).__name__}: {error}"


def _holds_no_place(load: Load) -> bool:
    return not (load.in_flight or load.queued)
