"""One expert in memory at a time, swapped through Triton's model control when a clip switches experts.

For a GPU that holds one expert but not two. Each clip costs a load at the switch and one at the next clip's start, and
clips wait for each other. The server must run with `--model-control-mode=explicit` and serve HTTP on this machine.

The Python backend's `load_model`, `unload_model` and `is_model_ready` are not used: while they run, the process sends
nothing to the server, so callers of all its clips get no heartbeat during a load and cannot cancel. On 2.51 a failed
load crashed the process; on 2.71 `is_model_ready` of an unloaded model raises UnicodeDecodeError.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from wan_t2v.cancellation import Cancelled
from wan_t2v.contract import EXPERTS
from wan_t2v.engines.loader import GRAPH_FILES
from wan_t2v.experts import HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT, Expert, Experts
from wan_t2v.operate.model_control import READY, UNAVAILABLE, UNLOADING, ModelControl, ModelControlError
from wan_t2v.operate.processes import model_file_processes
from wan_t2v.serving.errors import ModelCallError
from wan_t2v.serving.loop.expert_lock import lock_experts, server_lock_name
from wan_t2v.serving.python_backend.parameters import ModelParameters
from wan_t2v.serving.python_backend.run import server_run_directory

RESIDENCIES = ("both", "one_at_a_time")
POLL_S = 0.05
FREED_LIMIT_S = 120.0
FREED_SHARE = 0.9  # of an unloaded plan's size must be free again before the other expert is loaded
SLACK_BYTES = 2**30  # subtracted, since other processes on the GPU may take memory meanwhile

IsCancelled = Callable[[], bool]
Loading = Callable[[], AbstractContextManager[None]]


def swaps_experts(parameters: ModelParameters) -> bool:
    """Whether the parameter `expert_residency` is `one_at_a_time`; the default is `both`. Raises ParameterError."""
    return parameters.choice("expert_residency", RESIDENCIES, RESIDENCIES[0]) == "one_at_a_time"


@dataclass(frozen=True)
class ResidentExperts(Experts):
    """Experts that are loaded on access.

    `swaps_s` has the seconds of each swap: the wait for memory, and the load.
    """

    make_resident: Callable[[str], None]
    swaps_s: list[float]

    def __getitem__(self, name: str) -> Expert:
        self.make_resident(name)
        return super().__getitem__(name)


def swap_report(experts: Experts) -> dict[str, float]:
    """Return `swap_ms` for the metadata; empty if both experts stay loaded."""
    return {"swap_ms": 1e3 * sum(experts.swaps_s)} if isinstance(experts, ResidentExperts) else {}


@dataclass(frozen=True)
class ExpertSwap:
    """Loads and unloads the experts of one server, for one clip at a time.

    Attributes:
        codes: Triton's error codes.
        control: the server's model control.
        plan_bytes: size of each expert's plan; an expert without a plan holds no GPU memory to wait for.
        free_bytes: returns the free memory of the experts' GPU.
        processes: returns the number of living Python processes of an expert; 0 if the TensorRT backend runs it.
        lock_name: name that all processes share which swap the experts of one server.
        freed_limit_s: longest wait in seconds for an unloaded expert's processes and memory to go.
    """

    codes: Any
    control: ModelControl
    plan_bytes: dict[str, int]
    free_bytes: Callable[[], int]
    processes: Callable[[str], int]
    lock_name: str
    freed_limit_s: float = FREED_LIMIT_S

    @classmethod
    def of_server(cls, pb_utils: Any, parameters: ModelParameters, device: str) -> "ExpertSwap":
        """Make the swap for the experts beside this model, on `device` (`cpu` or `cuda:<n>`)."""
        return cls(
            pb_utils.TritonError,
            ModelControl(server_run_directory(parameters).path),
            plan_sizes(parameters),
            free_bytes=_free_memory(device),
            processes=lambda name: model_file_processes(os.getppid(), parameters.beside(name) / "model.py"),
            lock_name=server_lock_name(),
        )

    @contextlib.contextmanager
    def turn(
        self, experts: Experts, is_cancelled: IsCancelled, loading: Loading = contextlib.nullcontext
    ) -> Iterator[ResidentExperts]:
        """Lock the experts for one clip, and yield experts that are loaded on access.

        `loading` is a context around each swap. Raises Cancelled if the caller cancels during the wait or a load,
        ModelCallError if a load fails.
        """
        turn = _Turn(self, lock_experts(self.lock_name, is_cancelled), is_cancelled, loading)
        try:
            both = (experts.high_noise_expert, experts.low_noise_expert)
            yield ResidentExperts(*both, experts.boundary_timestep, turn.make_resident, turn.swaps_s)
        finally:
            turn.end()

    def make_room(self, name: str) -> None:
        """Unload the other expert and wait until it is gone; if this one is being unloaded, wait for that too.

        Triton answers an unload immediately, but ends processes and frees memory seconds later. Raises ModelCallError.
        """
        other = _other(name)
        deadline = time.monotonic() + self.freed_limit_s
        state, least = self.control.state(other), 0
        if state not in (UNAVAILABLE, UNLOADING):
            least = self.free_bytes() + int(FREED_SHARE * self.plan_bytes.get(other, 0)) - SLACK_BYTES
            self.control.unload(other)
        if state != UNAVAILABLE:
            self._wait_until_gone(other, least, deadline)
        while self.control.state(name) == UNLOADING:
            self._check_limit(name, deadline, "Triton is still unloading it")
            time.sleep(POLL_S)

    def _wait_until_gone(self, name: str, least: int, deadline: float) -> None:
        """Wait for the repository index first: free memory means nothing while the model is still listed."""
        while (state := self.control.state(name)) != UNAVAILABLE:
            self._check_limit(name, deadline, f"Triton calls it {state}")
            time.sleep(POLL_S)
        while self.processes(name) or self.free_bytes() < least:
            state = f"{self.processes(name)} processes live, {self.free_bytes()} bytes free of {least} expected"
            self._check_limit(name, deadline, state)
            time.sleep(POLL_S)

    def _check_limit(self, name: str, deadline: float, state: str) -> None:
        if time.monotonic() > deadline:
            reason = f"it was not gone {self.freed_limit_s:g} s after it was unloaded: {state}"
            raise ModelCallError(name, reason, self.codes.UNAVAILABLE)

    def failed(self, name: str, error: ModelControlError) -> ModelCallError:
        """Make the error for a caller whose swap failed in model control."""
        other = _other(name)
        if error.passes:
            reason, code = f"could not be swapped in for {other}, try again: {error}", self.codes.UNAVAILABLE
        else:
            reason, code = f"could not be swapped in for {other}: {error}", self.codes.INTERNAL
        return ModelCallError(name, reason, code)


@dataclass
class _Turn:
    """One clip's turn at the experts. It holds `lock`, and releases it once no load is under way."""

    swap: ExpertSwap
    lock: socket.socket
    is_cancelled: IsCancelled
    loading: Loading
    swaps_s: list[float] = field(default_factory=list)
    _resident: str | None = None  # unknown: the last turn may have ended between unload and load
    _load: Future[None] | None = None

    def make_resident(self, name: str) -> None:
        """Load an expert unless it is loaded already. Raises Cancelled, ModelCallError."""
        if name == self._resident:
            return
        self._resident, started = None, time.monotonic()
        try:
            with self.loading():
                self._exchange(name)
        except ModelControlError as error:
            raise self.swap.failed(name, error) from error
        self.swaps_s.append(time.monotonic() - started)
        self._resident = name

    def end(self) -> None:
        """Release the lock; an abandoned load keeps it until the load is done."""
        if self._load is None:
            self.lock.close()
        else:
            self._load.add_done_callback(lambda _: self.lock.close())  # called immediately if it is done

    def _exchange(self, name: str) -> None:
        self.swap.make_room(name)
        if self.swap.control.state(name) != READY:
            self._load = in_thread(lambda: self.swap.control.load(name))
            while not self._load.done():
                self._check_caller(name)
                time.sleep(POLL_S)
            self._load.result()
        self._check_caller(name)

    def _check_caller(self, name: str) -> None:
        if self.is_cancelled():
            raise Cancelled(f"cancelled while {name} was loaded")


def _other(name: str) -> str:
    return LOW_NOISE_EXPERT if name == HIGH_NOISE_EXPERT else HIGH_NOISE_EXPERT


def in_thread(do: Callable[[], None]) -> Future[None]:
    """Run `do` in a daemon thread, which the process's exit does not wait for."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            do()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="expert-load", daemon=True).start()
    return done


def _free_memory(device: str) -> Callable[[], int]:
    if device == "cpu":
        return lambda: 0  # nothing to wait for: a process that ends frees its memory
    import torch

    return lambda: int(torch.cuda.mem_get_info(device)[0])


def plan_sizes(parameters: ModelParameters) -> dict[str, int]:
    """Return the bytes of each expert's plan beside this model, without experts that have no plan."""
    plans = {name: parameters.beside(name) / GRAPH_FILES["tensorrt"].name for name in EXPERTS}
    return {name: path.stat().st_size for name, path in plans.items() if path.exists()}
