"""A job is one trace from its caller's span to the webhook, also where another process makes the video."""

import os
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from wan_t2v_gateway import app
from wan_t2v_gateway.__main__ import main
from wan_t2v_gateway.tracing import Tracer, context_of

from tests.fakes.scripted_server import MADE, Refusal, serving
from tests.stress.faults.gateway.receiver import running_receiver

Start = Callable[..., Any]
TRACE, CALLERS = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADER = {"traceparent": f"00-{TRACE}-{CALLERS}-01"}


class Spans(InMemorySpanExporter):
    """What was sent, by name."""

    def named(self, name: str) -> Any:
        found = [span for span in self.get_finished_spans() if span.name == name]
        assert len(found) == 1, [span.name for span in self.get_finished_spans()]
        return found[0]

    def wait_for(self, name: str) -> None:
        """A span ends a moment after what it is of."""
        for _ in range(3000):
            if name in {span.name for span in self.get_finished_spans()}:
                return
            time.sleep(0.02)
        raise AssertionError(f"no span {name}: {[span.name for span in self.get_finished_spans()]}")

    def parents(self) -> dict[str, str]:
        """Name to the parent's name, or id if it is not ours."""
        spans = self.get_finished_spans()
        names = {span.context.span_id: span.name for span in spans}
        assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE}
        return {span.name: names.get(span.parent.span_id, f"{span.parent.span_id:016x}") for span in spans}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """Of every gateway that starts."""
    exporter, provider = Spans(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(app.Tracer, "to", classmethod(lambda cls, url: cls(provider) if url else cls()))
    monkeypatch.setattr(provider, "shutdown", lambda: None)  # the front and the worker share it
    return exporter


def test_a_job_is_one_trace_from_its_caller_to_the_webhook(start: Start, spans: Spans) -> None:
    """The front that takes the job makes no videos, and the worker that makes it never saw the request."""
    with serving(MADE) as server, running_receiver() as receiver:
        common = {"server_url": server.url, "traces_url": "http://collector", "webhook_hosts": ("127.0.0.1",)}
        front = start(workers=0, **common)
        video_id = front.post(HEADER, webhook_url=receiver.url)
        start(workers=1, **common)
        front.until(video_id, "completed")
        spans.wait_for("webhook")
    request = "POST /v1/videos"
    jobs = dict.fromkeys(("queued", "running", "stored", "webhook"), request)
    assert spans.parents() == {request: CALLERS, **jobs}
    assert server.headers[0]["traceparent"] == f"00-{TRACE}-{spans.named('running').context.span_id:016x}-01"
    assert spans.named(request).attributes["video"] == video_id
    assert spans.named("webhook").attributes["result"] == "204"
    times = [(span.start_time, span.end_time) for span in map(spans.named, ("queued", "running", "stored"))]
    assert all(began <= ended for began, ended in times) and times == sorted(times)


def test_a_failure_is_told_in_its_span(start: Start, spans: Spans) -> None:
    with serving((Refusal("INVALID_ARGUMENT", "seed: got 5; accepted: none"),)) as server:
        gateway = start(server_url=server.url, traces_url="http://collector")
        gateway.until(gateway.post(HEADER), "failed")
        spans.wait_for("running")
    (event,) = spans.named("running").events
    assert "seed: got 5" in event.attributes["exception.message"]


def test_without_a_collector_the_callers_trace_still_reaches_the_server(start: Start, spans: Spans) -> None:
    with serving(MADE) as server:
        gateway = start(server_url=server.url)
        for headers in (HEADER, {}):
            gateway.until(gateway.post(headers), "completed")
    assert [call.get("traceparent") for call in server.headers] == [HEADER["traceparent"], None]
    assert not spans.get_finished_spans()


@pytest.mark.parametrize(
    "told", ["", "x", f"00-{'0' * 32}-{CALLERS}-01", f"ff-{TRACE}-{CALLERS}-01", "00-1-2-01", "\u0663"]
)
def test_what_is_no_trace_is_passed_on_to_nobody(told: str) -> None:
    assert context_of({"traceparent": told}) == {}


def test_without_its_packages_the_gateway_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], database_url: str
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert main(["--database-url", database_url, "--traces-url", "http://127.0.0.1:4318/v1/traces"]) == 1
    assert "wan-t2v-gateway[tracing]" in capsys.readouterr().err


def test_a_collectors_address_is_all_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        tracer = Tracer.to(f"http://127.0.0.1:{collector.server_port}/v1/traces")
        with tracer.span("a job", context_of(HEADER)) as span:
            span.note(video="video_1")
        tracer.close()
        collector.shutdown()
    ((sent,),) = [
        [span for scope in resource.scope_spans for span in scope.spans]
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
    ]
    assert (sent.name, sent.trace_id.hex(), sent.parent_span_id.hex()) == ("a job", TRACE, CALLERS)
    assert span.context == {"traceparent": f"00-{TRACE}-{sent.span_id.hex()}-01"}
