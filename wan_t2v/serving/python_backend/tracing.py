"""Spans of a generation for OpenTelemetry: children of Triton's trace of the request, and so of its caller's.

Triton traces calls of models (`--trace-config mode=opentelemetry`). Only the model can add spans for its own stages.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # needs torch, which not every model has
    from wan_t2v.denoise import Step

# OpenTelemetry's own variables. Without any of them nothing is sent, and its packages are not imported.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Trace:
    """One request's spans. This base class is for a request that is not traced, and does nothing."""

    @contextlib.contextmanager
    def span(self, name: str, **attributes: str | int | float) -> Iterator[None]:
        """Record a span of everything inside; spans that are made there become its children."""
        yield

    def ended(self, name: str, seconds: float, **attributes: str | int | float) -> None:
        """Record a span that has just ended and took `seconds`."""

    def step(self, step: "Step", seconds: float) -> None:
        """Record a denoising step that has just ended and took `seconds`."""
        self.ended("denoise_step", seconds, step=step.index, timestep=step.timestep, expert=step.expert)


UNTRACED = Trace()


class Tracer:
    """Sender of a model process's spans, to an OTLP collector over HTTP or nowhere."""

    def __init__(self, tracer: Any = None, provider: Any = None) -> None:
        self._tracer, self._provider = tracer, provider

    @classmethod
    def of_process(cls, model: str) -> "Tracer":
        """Configure the tracer from OpenTelemetry's own environment variables."""
        if not any(os.environ.get(name) for name in ENDPOINTS):
            return cls()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(resource=Resource.create({"service.name": "wan-t2v", "service.instance.id": model}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider.get_tracer("wan_t2v"), provider)

    def of_request(self, request: Any) -> Trace:
        """Return the request's trace; UNTRACED if Triton did not sample the request."""
        carrier = request.trace().get_context() if self._tracer else None
        if not carrier:
            return UNTRACED
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        return SentTrace(self._tracer, TraceContextTextMapPropagator().extract(json.loads(carrier)))

    def close(self) -> None:
        """Send the pending spans."""
        if self._provider:
            self._provider.shutdown()


class SentTrace(Trace):
    """Spans with `context` as parent, or the current span if there is one."""

    def __init__(self, tracer: Any, context: Any) -> None:
        self._tracer, self._context = tracer, context

    @contextlib.contextmanager
    def span(self, name: str, **attributes: str | int | float) -> Iterator[None]:
        """Record a span; an exception that leaves the context is recorded in it."""
        with self._tracer.start_as_current_span(name, context=self._parent(), attributes=attributes):
            yield

    def ended(self, name: str, seconds: float, **attributes: str | int | float) -> None:
        """Record a span that ends now, with its start `seconds` earlier."""
        now_ns = time.time_ns()
        started = now_ns - int(seconds * 1e9)
        self._tracer.start_span(name, context=self._parent(), attributes=attributes, start_time=started).end(now_ns)

    def _parent(self) -> Any:
        from opentelemetry import trace

        surrounding = trace.get_current_span()
        return None if surrounding.get_span_context().is_valid else self._context
