"""What both doors tell on Triton's own metrics endpoint, named by Prometheus' conventions."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wan_t2v.cancellation import Cancelled
from wan_t2v.operate.load import Load
from wan_t2v.request import RequestError
from wan_t2v.serving.admission import Refused
from wan_t2v.serving.remote import RequestRefusedError

# Bounds in seconds that fit a wan-mini on a CPU and an A14B on any GPU alike.
STEP_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
STAGE_BUCKETS_S = (0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


@dataclass(frozen=True)
class MetricSpec:
    """A metric family. `buckets` are a histogram's upper bounds."""

    name: str
    kind: str
    description: str
    buckets: tuple[float, ...] = ()


OUTCOMES = (
    *("finished", "cancelled", "failed"),
    *("refused_overloaded", "refused_deadline", "refused_draining", "refused_invalid"),
)

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
    MetricSpec("wan_t2v_step_seconds", "HISTOGRAM", "Seconds a denoising step, by door and expert", STEP_BUCKETS_S),
    MetricSpec(
        "wan_t2v_stage_seconds",
        "HISTOGRAM",
        "Seconds a stage, by door and stage: prepare, denoise, decode, encode",
        STAGE_BUCKETS_S,
    ),
    MetricSpec(
        "wan_t2v_cancel_seconds",
        "HISTOGRAM",
        "Seconds from the last moment at which the caller was known to be there to the end of the work, by door",
        STEP_BUCKETS_S,
    ),
    MetricSpec("wan_t2v_frames_total", "COUNTER", "Frames that were decoded, by door"),
)


class Metrics:
    """The families of METRICS, told for one door; several processes share the families.

    Each change is a call to the server's process, so it is made a step and not a tensor.
    """

    def __init__(self, pb_utils: Any, *, door: str) -> None:
        self._door = door
        self._families = {
            spec.name: pb_utils.MetricFamily(
                name=spec.name, description=spec.description, kind=getattr(pb_utils.MetricFamily, spec.kind)
            )
            for spec in METRICS
        }
        self._buckets = {spec.name: list(spec.buckets) for spec in METRICS}
        self._metrics: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()
        for name in OUTCOMES:  # from 0 on: Prometheus' increase() does not see the first event of a new series
            self._metric("wan_t2v_generations_ended_total", {"outcome": name}).increment(0)
        self._metric("wan_t2v_generations_admitted_total").increment(0)

    def loaded(self, load: Load) -> None:
        """How full the server is now, over both doors."""
        self._gauge("wan_t2v_generations_in_flight").set(load.in_flight)
        self._gauge("wan_t2v_generations_queued").set(load.queued)

    def admitted(self) -> None:
        """A request got a place."""
        self._metric("wan_t2v_generations_admitted_total").increment(1)

    def ended(self, error: BaseException | None) -> None:
        """A request ended, with an error or well."""
        self._metric("wan_t2v_generations_ended_total", {"outcome": outcome(error)}).increment(1)

    def stepped(self, expert: str, seconds: float) -> None:
        """A denoising step was done."""
        self._metric("wan_t2v_steps_total", {"expert": expert}).increment(1)
        self._metric("wan_t2v_step_seconds", {"expert": expert}).observe(seconds)

    def staged(self, stage: str, seconds: float) -> None:
        """A stage was done."""
        self._metric("wan_t2v_stage_seconds", {"stage": stage}).observe(seconds)

    def stopped(self, seconds: float) -> None:
        """Work stopped because its caller had left."""
        self._metric("wan_t2v_cancel_seconds").observe(seconds)

    def decoded(self, frames: int) -> None:
        """Frames were decoded."""
        self._metric("wan_t2v_frames_total").increment(frames)

    def _gauge(self, name: str) -> Any:
        """The one metric of a family that counts both doors together."""
        return self._labelled(name, {})

    def _metric(self, name: str, labels: Mapping[str, str] | None = None) -> Any:
        """This door's metric of a family."""
        return self._labelled(name, {"door": self._door, **(labels or {})})

    def _labelled(self, name: str, labels: Mapping[str, str]) -> Any:
        """The metric of a family with these labels, made when it is first needed."""
        key = (name, str(sorted(labels.items())))
        with self._lock:
            if key not in self._metrics:
                options = {"buckets": self._buckets[name]} if self._buckets[name] else {}
                self._metrics[key] = self._families[name].Metric(labels=dict(labels), **options)
            return self._metrics[key]


def outcome(error: BaseException | None) -> str:
    """The value of the label `outcome`."""
    if error is None:
        return "finished"
    if isinstance(error, Cancelled):
        return "cancelled"
    if isinstance(error, Refused):
        return f"refused_{error.reason}"
    if isinstance(error, RequestError | RequestRefusedError):
        return "refused_invalid"
    return "failed"
