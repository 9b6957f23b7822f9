"""OpenTelemetry spans of a job: the request, the queue, the generation with the server's own spans, the webhook.

The job's record has the trace context, so that a worker in another process continues the trace. A caller's trace
context reaches the server even if the gateway itself sends no spans.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Context = Mapping[str, str]
TRACEPARENT = "traceparent"
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class TracingError(Exception):
    """Spans cannot be sent; the message says why."""


def context_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Read the caller's trace context; empty if it is missing or invalid."""
    parent = headers.get(TRACEPARENT, "").strip()
    return {TRACEPARENT: parent} if _PARENT.fullmatch(parent) else {}


@dataclass(frozen=True)
class Span:
    """A running span. `context` is the parent context of its children; `noted` is the SDK's span, if any."""

    context: dict[str, str]
    noted: Any = None

    def note(self, **attributes: str | int | float) -> None:
        """Add attributes to the span."""
        if self.noted is not None:
            self.noted.set_attributes(attributes)


class Tracer:
    """Sender of this process's spans. Without a provider it sends none."""

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("wan_t2v_gateway") if provider is not None else None

    @classmethod
    def to(cls, url: str) -> "Tracer":
        """Make a tracer for an OTLP collector over HTTP, such as `http://127.0.0.1:4318/v1/traces`; empty for none.

        Raises TracingError.
        """
        if not url:
            return cls()
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise TracingError("traces need the extra `tracing`: pip install 'wan-t2v-gateway[tracing]'") from None
        provider = TracerProvider(resource=Resource.create({"service.name": "wan-t2v-gateway"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        return cls(provider)

    @contextlib.contextmanager
    def span(self, name: str, parent: Context, **attributes: str | int | float) -> Iterator[Span]:
        """Record a span of everything inside, and an exception that leaves it, also that of a cancelled task."""
        if self._tracer is None:
            yield Span(dict(parent))
            return
        span = self._tracer.start_span(name, context=_extract(parent), attributes=attributes)
        try:
            yield Span(_injected(span), span)
        except BaseException as error:
            _record(span, error)
            raise
        finally:
            span.end()

    def ended(self, name: str, parent: Context, *, began: datetime, ended: datetime) -> None:
        """Record a span that has ended, with times of the database's clock."""
        if self._tracer is not None:
            span = self._tracer.start_span(name, context=_extract(parent), start_time=_ns(began))
            span.end(_ns(ended))

    def close(self) -> None:
        """Send the pending spans."""
        if self._provider is not None:
            self._provider.shutdown()


def _record(span: Any, error: BaseException) -> None:
    from opentelemetry.trace import StatusCode

    span.record_exception(error)
    span.set_status(StatusCode.ERROR, str(error)[:200])


def _extract(parent: Context) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(parent)


def _injected(span: Any) -> dict[str, str]:
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(context, set_span_in_context(span))
    return context


def _ns(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)
