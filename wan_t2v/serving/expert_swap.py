"""One expert in memory at a time, swapped through Triton's model control at the switch of each clip.

For a GPU that holds one expert but not two. It costs a load at the switch and one at the next clip's start, and clips
wait for each other. The server must run with `--model-control-mode=explicit`.
"""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wan_t2v.cancellation import Cancelled
from wan_t2v.engines.choice import GRAPH_FILES
from wan_t2v.experts import HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT, Expert, Experts
from wan_t2v.serving.parameters import ModelParameters, ParameterError
from wan_t2v.serving.remote import ModelCallError

RESIDENCIES = ("both", "one_at_a_time")
POLL_S = 0.05
FREED_LIMIT_S = 120.0
FREED_SHARE = 0.9  # of an unloaded plan's size must be free again before the other expert is loaded

IsCancelled = Callable[[], bool]


def swaps_experts(parameters: ModelParameters) -> bool:
    """Whether `expert_residency` says `one_at_a_time`; left out, it is `both`. Raises ParameterError."""
    value = parameters.values.get("expert_residency", RESIDENCIES[0])
    if value not in RESIDENCIES:
        accepted = ", ".join(RESIDENCIES)
        raise ParameterError(f"{parameters.model}: parameter expert_residency is {value!r}, accepted: {accepted}")
    return value == "one_at_a_time"


@dataclass(frozen=True)
class ResidentExperts(Experts):
    """Experts that are made resident before they are handed out.

    `swaps_s` has the seconds of each exchange: waiting for memory, and the load.
    """

    make_resident: Callable[[str], None]
    swaps_s: list[float]

    def __getitem__(self, name: str) -> Expert:
        self.make_resident(name)
        return super().__getitem__(name)


def swap_report(experts: Experts) -> dict[str, float]:
    """`swap_ms` for the metadata; nothing where both experts stay loaded."""
    return {"swap_ms": 1e3 * sum(experts.swaps_s)} if isinstance(experts, ResidentExperts) else {}


@dataclass(frozen=True)
class ExpertSwap:
    """Loads and unloads the experts of one server, for one clip at a time.

    Attributes:
        plan_bytes: size of an expert's plan, by name; an expert without one holds no GPU memory to wait for.
        free_bytes: free memory of the experts' GPU at the moment.
        processes: how many Python processes of an expert live at the moment; none where TensorRT's backend runs it.
        lock_name: the same for all processes that swap the experts of one server.
    """

    pb_utils: Any
    plan_bytes: dict[str, int]
    free_bytes: Callable[[], int]
    processes: Callable[[str], int]
    lock_name: str
    freed_limit_s: float = FREED_LIMIT_S

    @classmethod
    def of_server(cls, pb_utils: Any, parameters: ModelParameters, device: str) -> "ExpertSwap":
        """For the experts beside this model, on `device` (`cpu` or `cuda:<n>`)."""
        repository, version = parameters.version_folder.parents[1], parameters.version_folder.name
        return cls(
            pb_utils,
            plan_sizes(repository, version),
            free_bytes=_free_memory(device),
            processes=lambda name: _processes_running(repository / name / version / "model.py"),
            lock_name=server_lock_name(),
        )

    @contextlib.contextmanager
    def turn(self, experts: Experts, is_cancelled: IsCancelled) -> Iterator[ResidentExperts]:
        """Keep every other clip from the experts; yield them so that the one that is asked for is the one loaded.

        Raises Cancelled where the caller left during the wait or a load, ModelCallError where a load failed.
        """
        resident: str | None = None  # unknown: the last turn may have failed between unload and load
        swaps_s: list[float] = []

        def make_resident(name: str) -> None:
            nonlocal resident
            if name != resident:
                resident = None
                started = time.monotonic()
                self._exchange(name)
                swaps_s.append(time.monotonic() - started)
                resident = name
                if is_cancelled():
                    raise Cancelled(f"cancelled while {name} was loaded")

        with _held(self.lock_name, is_cancelled):
            both = (experts.high_noise_expert, experts.low_noise_expert)
            yield ResidentExperts(*both, experts.boundary_timestep, make_resident, swaps_s)

    def _exchange(self, name: str) -> None:
        other = LOW_NOISE_EXPERT if name == HIGH_NOISE_EXPERT else HIGH_NOISE_EXPERT
        try:
            if self.pb_utils.is_model_ready(other):
                self._unload(other)
            if not self.pb_utils.is_model_ready(name):
                self.pb_utils.load_model(name)
        except self.pb_utils.TritonModelException as error:
            reason = f"could not be swapped in for {other}, try again: {error}"
            raise ModelCallError(name, reason, self.pb_utils.TritonError.UNAVAILABLE) from error

    def _unload(self, name: str) -> None:
        """Unload and wait until it is gone: Triton returns at once, calls the model not ready at once, and ends its
        processes and frees its memory seconds later.
        """
        least = self.free_bytes() + int(FREED_SHARE * self.plan_bytes.get(name, 0))
        self.pb_utils.unload_model(name)
        deadline = time.monotonic() + self.freed_limit_s
        while self.pb_utils.is_model_ready(name) or self.processes(name) or self.free_bytes() < least:
            if time.monotonic() > deadline:
                found = f"{self.processes(name)} processes live, {self.free_bytes()} bytes free of {least} expected"
                reason = f"it was not gone {self.freed_limit_s:g} s after it was unloaded: {found}"
                raise ModelCallError(name, reason, self.pb_utils.TritonError.UNAVAILABLE)
            time.sleep(POLL_S)


def _processes_running(model_file: Path) -> int:
    """Processes of this server that run a Python model: children of our parent with the model on the command line."""
    wanted = os.fsencode(model_file)
    found = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):  # it ended meanwhile
                ours = f"\nPPid:\t{os.getppid()}\n" in (folder / "status").read_text()
                found += ours and wanted in (folder / "cmdline").read_bytes().split(b"\0")
    return found


def _free_memory(device: str) -> Callable[[], int]:
    if device == "cpu":
        return lambda: 0  # nothing to wait for: processes that end give back theirs
    import torch

    return lambda: int(torch.cuda.mem_get_info(device)[0])


def server_lock_name() -> str:
    """A name that all Python models of this server share and no other server does.

    Their parent process is the server; its number is unique within its process namespace.
    """
    return f"wan-t2v-expert-swap-{Path('/proc/self/ns/pid').stat().st_ino}-{os.getppid()}"


@contextlib.contextmanager
def _held(name: str, is_cancelled: IsCancelled) -> Iterator[None]:
    """Hold a lock between threads and processes: an abstract socket's name is bound once, leaves no file, and the
    kernel frees it when its process dies.
    """
    while (lock := _bound(name)) is None:
        if is_cancelled():
            raise Cancelled("cancelled while another clip had the experts")
        time.sleep(POLL_S)
    with lock:
        yield


def _bound(name: str) -> socket.socket | None:
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lock.bind(f"\0{name}")
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return lock


def plan_sizes(repository: Path, version: str) -> dict[str, int]:
    """Bytes of each expert's plan in a model repository; an expert without a plan is left out."""
    file = GRAPH_FILES["tensorrt"].name
    plans = {name: repository / name / version / file for name in (HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT)}
    return {name: path.stat().st_size for name, path in plans.items() if path.exists()}
