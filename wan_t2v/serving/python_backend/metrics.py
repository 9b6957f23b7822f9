"""Metrics of both endpoints on Triton's own metrics endpoint, named by Prometheus' conventions."""

import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wan_t2v.contract import EXPERTS
from wan_t2v.operate.load import Load
from wan_t2v.operate.shared_memory import SharedMemoryUse
from wan_t2v.serving.errors import OUTCOMES, outcome
from wan_t2v.serving.started_pool import started_pool

if TYPE_CHECKING:
    from wan_t2v.denoise import Step

# Bucket bounds in seconds, for wan-mini on a CPU as well as A14B on any GPU.
STEP_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
STAGE_BUCKETS_S = (0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
STEPS_EVERY_S = 0.25  # between two times at which steps are sent to Triton


@dataclass(frozen=True)
class MetricSpec:
    """A metric family. `buckets` are a histogram's upper bounds."""

    name: str
    kind: str
    description: str
    buckets: tuple[float, ...] = ()


METRICS = (
    MetricSpec("wan_t2v_generations_in_flight", "GAUGE", "Generations that run now"),
    MetricSpec("wan_t2v_generations_queued", "GAUGE", "Generations that wait for their turn"),
    MetricSpec("wan_t2v_generations_admitted_total", "COUNTER", "Requests that got a place, by door"),
    MetricSpec(
        "wan_t2v_generations_ended_total",
        "COUNTER",
        f"Requests that ended, by door and outcome: {', '.join(OUTCOMES)}",
    ),
    MetricSpec("wan_t2v_steps_total", "COUNTER", "Denoising steps, by door and expert"),
    MetricSpec(
        "wan_t2v_reused_steps_total",
        "COUNTER",
        "Denoising steps that took an earlier step's result, by door and expert",
    ),
    MetricSpec(
        "wan_t2v_step_seconds", "HISTOGRAM", "Seconds per computed denoising step, by door and expert", STEP_BUCKETS_S
    ),
    MetricSpec(
        "wan_t2v_stage_seconds",
        "HISTOGRAM",
        "Seconds per stage, by door and stage: prepare, denoise, decode, encode",
        STAGE_BUCKETS_S,
    ),
    MetricSpec(
        "wan_t2v_cancel_seconds",
        "HISTOGRAM",
        "Seconds from the last moment at which the caller was known to be there to the end of the work, by door",
        STEP_BUCKETS_S,
    ),
    MetricSpec("wan_t2v_frames_total", "COUNTER", "Frames that were decoded, by door"),
    MetricSpec(
        "wan_t2v_shared_memory_bytes",
        "GAUGE",
        "Memory of the regions between Triton and its models; never shrinks",
    ),
    MetricSpec("wan_t2v_shared_memory_size_bytes", "GAUGE", "Size of the file system in which these regions are"),
)


class Metrics:
    """The families of METRICS, labelled with one endpoint; several processes share the families.

    Each change is a call to the server's process, and one thread makes them all, in order. Triton's `Metric` stores its
    message in itself, so a second thread's call would free what the server still reads of the first
    (python_backend's `Metric::SaveToSharedMemory`). The server then dies of signal 11, or of a `lock_exception`. The
    denoising loop does not wait for that thread. The end of a request does, so that a caller with a final response
    finds all of its request counted. Short steps are kept and sent together: between two steps that thread would take
    the interpreter from the one that calls the experts. `now` is a steady clock.
    """

    def __init__(self, pb_utils: Any, *, endpoint: str, now: Callable[[], float] = time.monotonic) -> None:
        self._pb_utils, self._endpoint, self._now = pb_utils, endpoint, now
        self._steps: deque[tuple[str, str, float, dict[str, str]]] = deque()  # changes that are not sent yet
        self._steps_sent_at = now()
        self._families = {
            spec.name: pb_utils.MetricFamily(
                name=spec.name, description=spec.description, kind=getattr(pb_utils.MetricFamily, spec.kind)
            )
            for spec in METRICS
        }
        self._buckets = {spec.name: list(spec.buckets) for spec in METRICS}
        self._metrics: dict[tuple[str, str], Any] = {}
        self._thread = started_pool(1, "metrics")
        for name in OUTCOMES:  # from 0 on: Prometheus' increase() does not see the first event of a new series
            self._increment("wan_t2v_generations_ended_total", 0, outcome=name)
        for name in EXPERTS:
            self._increment("wan_t2v_reused_steps_total", 0, expert=name)
        self._increment("wan_t2v_generations_admitted_total", 0).result()

    def close(self) -> None:
        """Send the pending changes, and end the thread."""
        self._thread.submit(self._send_steps)
        self._thread.shutdown()

    def set_load(self, load: Load) -> None:
        """Set the gauges of running and queued generations, over both endpoints."""
        self._change("wan_t2v_generations_in_flight", "set", load.in_flight, {})
        self._change("wan_t2v_generations_queued", "set", load.queued, {}).result()

    def set_shared_memory(self, use: SharedMemoryUse) -> None:
        """Set the gauges of the server's shared memory."""
        self._change("wan_t2v_shared_memory_bytes", "set", use.region_bytes, {})
        self._change("wan_t2v_shared_memory_size_bytes", "set", use.size_bytes, {}).result()

    def count_admission(self) -> None:
        """Count a request that was admitted."""
        self._increment("wan_t2v_generations_admitted_total").result()

    def count_end(self, error: BaseException | None) -> None:
        """Count the end of a request, by its outcome."""
        self._increment("wan_t2v_generations_ended_total", outcome=outcome(error)).result()

    def count_step(self, step: "Step", seconds: float) -> None:
        """Count a denoising step, and observe its seconds if it was computed."""
        labels = {"door": self._endpoint, "expert": step.expert}
        self._steps.append(("wan_t2v_steps_total", "increment", 1, labels))
        if step.reused:
            self._steps.append(("wan_t2v_reused_steps_total", "increment", 1, labels))
        else:
            self._steps.append(("wan_t2v_step_seconds", "observe", seconds, labels))
        if self._now() - self._steps_sent_at >= STEPS_EVERY_S:
            self._steps_sent_at = self._now()
            self._thread.submit(self._send_steps)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Observe the seconds of a stage."""
        self._observe("wan_t2v_stage_seconds", seconds, stage=stage)

    def observe_cancel(self, seconds: float) -> None:
        """Observe the seconds that work ran on after its caller had left."""
        self._observe("wan_t2v_cancel_seconds", seconds)

    def count_frames(self, frames: int) -> None:
        """Count decoded frames."""
        self._increment("wan_t2v_frames_total", frames)

    def _increment(self, name: str, by: float = 1, **labels: str) -> Future[None]:
        return self._change(name, "increment", by, {"door": self._endpoint, **labels})

    def _observe(self, name: str, seconds: float, **labels: str) -> Future[None]:
        return self._change(name, "observe", seconds, {"door": self._endpoint, **labels})

    def _change(self, name: str, method: str, value: float, labels: Mapping[str, str]) -> Future[None]:
        return self._thread.submit(self._send, name, method, value, labels)

    def _send(self, name: str, method: str, value: float, labels: Mapping[str, str]) -> None:
        self._send_steps()
        self._apply(name, method, value, labels)

    def _send_steps(self) -> None:
        """Apply the changes that steps left, in the metrics thread."""
        while self._steps:
            self._apply(*self._steps.popleft())

    def _apply(self, name: str, method: str, value: float, labels: Mapping[str, str]) -> None:
        """Apply a change, in the metrics thread. A failure is only logged, so that it costs no video."""
        try:
            getattr(self._metric(name, labels), method)(value)
        except Exception as error:
            self._pb_utils.Logger.log_warn(f"{name}: {''.join(traceback.format_exception_only(error)).strip()}")

    def _metric(self, name: str, labels: Mapping[str, str]) -> Any:
        """Return the metric of a family with these labels, and create it on first use."""
        key = (name, str(sorted(labels.items())))
        if key not in self._metrics:
            options = {"buckets": self._buckets[name]} if self._buckets[name] else {}
            self._metrics[key] = self._families[name].Metric(labels=dict(labels), **options)
        return self._metrics[key]
