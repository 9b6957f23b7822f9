"""Metrics in Prometheus' text format: measurements of this process, and counts from the database."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

PREFIX = "wan_t2v_gateway_"
_EXPIRATION = "certificate_expiration_timestamp_seconds"
STATES = ("queued", "in_progress", "completed", "failed", "cancelled")


class Histogram:
    """A histogram of seconds, since this process began. `bounds` are the buckets' upper bounds."""

    def __init__(self, name: str, text: str, bounds: Iterable[float]) -> None:
        self.name, self.text, self.bounds = name, text, tuple(bounds)
        self._counts: Counter[float] = Counter()
        self._sum, self._number = 0.0, 0

    def observe(self, seconds: float) -> None:
        """Add an observation."""
        self._sum, self._number = self._sum + seconds, self._number + 1
        self._counts.update(bound for bound in self.bounds if seconds <= bound)

    def lines(self) -> list[str]:
        """Format the histogram for Prometheus."""
        buckets = {f"{bound:g}": self._counts[bound] for bound in self.bounds} | {"+Inf": self._number}
        return [
            *head(self.name, "histogram", self.text),
            *(sample(f"{self.name}_bucket", count, le=bound) for bound, count in buckets.items()),
            sample(f"{self.name}_sum", self._sum),
            sample(f"{self.name}_count", self._number),
        ]


def _queued() -> Histogram:
    bounds = (0.1, 1, 10, 60, 300, 1800, 3600, 4 * 3600, 24 * 3600)
    return Histogram("queued_seconds", "from the request for a video to its first attempt", bounds)


def _finishing() -> Histogram:
    bounds = (0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 60)
    return Histogram("finishing_seconds", "from the server's MP4 to the stored and recorded video", bounds)


def _cancel() -> Histogram:
    bounds = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
    return Histogram("cancel_seconds", "from the request to cancel to the closed stream", bounds)


@dataclass
class Measurements:
    """Measurements of one gateway process.

    Attributes:
        certificate_end: Unix time at which the certificate for marking expires; None for a process that signs nothing.
    """

    queued: Histogram = field(default_factory=_queued)
    finishing: Histogram = field(default_factory=_finishing)
    cancel: Histogram = field(default_factory=_cancel)
    webhook_attempts: Counter[str] = field(default_factory=lambda: Counter({"delivered": 0, "failed": 0}))
    certificate_end: Callable[[], float] | None = None

    def lines(self) -> list[str]:
        """Format all measurements for Prometheus."""
        attempts = [sample("webhook_attempts_total", n, result=result) for result, n in self.webhook_attempts.items()]
        lines = [line for histogram in (self.queued, self.finishing, self.cancel) for line in histogram.lines()]
        lines += [*head("webhook_attempts_total", "counter", "deliveries tried, by result"), *attempts]
        lines += head(_EXPIRATION, "gauge", "Unix time at which the certificate for marking expires")
        return lines if self.certificate_end is None else [*lines, sample(_EXPIRATION, self.certificate_end())]


@dataclass(frozen=True)
class Records:
    """Counts from the database, the same at every gateway. `jobs` is by state and the owner's class."""

    jobs: Mapping[tuple[str, str], int]
    classes: tuple[str, ...]
    oldest_queued_s: float
    paused: bool
    stored_bytes: int

    def lines(self) -> list[str]:
        """Format all counts for Prometheus; a class without jobs in a state gets a zero."""
        jobs = [
            sample("jobs", self.jobs.get((state, name), 0), **{"status": state, "class": name})
            for name in self.classes
            for state in STATES
        ]
        return [
            *(*head("jobs", "gauge", "videos on record by state and by the class of their owner"), *jobs),
            *head("oldest_queued_seconds", "gauge", "how long the first in the queue has waited"),
            sample("oldest_queued_seconds", self.oldest_queued_s),
            *head("queue_paused", "gauge", "1 while an administrator has the queue paused"),
            sample("queue_paused", int(self.paused)),
            *head("stored_bytes", "gauge", "bytes of finished files"),
            sample("stored_bytes", self.stored_bytes),
        ]


def head(name: str, kind: str, text: str) -> list[str]:
    """Format the two lines before a metric's samples."""
    return [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} {kind}"]


def sample(name: str, value: float, **labels: str) -> str:
    """Format one sample as a line."""
    escaped = {key: text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for key, text in labels.items()}
    shown = ",".join(f'{key}="{text}"' for key, text in escaped.items())
    return f"{PREFIX}{name}{'{' + shown + '}' if shown else ''} {value}"
