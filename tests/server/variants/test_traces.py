"""Spans of both endpoints at an OpenTelemetry collector, as children of the client's own trace."""

import gzip
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from wan_t2v_client import Connection, TextToVideo

from embedded.options import ServerOptions
from embedded.server import Server, running_server
from tests.server.conftest import START_LIMIT_S
from tests.waiting import becomes_true

CLIENTS_SPAN = "00f067aa0ba902b7"
ENDPOINTS = ("generate", "generate_unary")
SMALL = {"num_frames": 5, "height": 32, "width": 48, "num_inference_steps": 4, "seed": 5}


@dataclass(frozen=True)
class Span:
    name: str
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]

    @classmethod
    def from_json(cls, span: dict[str, Any]) -> "Span":
        """As Triton sends them: OTLP's JSON has ids in hexadecimal digits, unlike protobuf's own."""
        ids = (span["traceId"], span["spanId"], span.get("parentSpanId", ""))
        return cls(span["name"], *ids, int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"]), {})

    @classmethod
    def from_protobuf(cls, span: Any) -> "Span":
        """As the models' own come."""
        ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
        told = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
        return cls(span.name, *ids, span.start_time_unix_nano, span.end_time_unix_nano, told)


def spans_in(body: bytes, content_type: str) -> list[Span]:
    if "json" in content_type:
        sent = json.loads(body)["resourceSpans"]
        return [Span.from_json(span) for r in sent for scope in r["scopeSpans"] for span in scope["spans"]]
    found = ExportTraceServiceRequest.FromString(body).resource_spans
    return [Span.from_protobuf(span) for r in found for scope in r.scope_spans for span in scope.spans]


@dataclass
class Collector:
    """What a collector gets."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)

    def named(self, name: str, trace: str) -> list[Span]:
        return [span for span in self.spans if span.name == name and span.trace == trace]

    def without_parent(self) -> int:
        """How many requests Triton began a trace of its own for."""
        return sum(span.name == "InferRequest" and not span.parent for span in self.spans)

    def gets(self, name: str, trace: str, *, unless: Callable[[], bool]) -> bool:
        """Whether the span comes, or `unless` becomes true first."""
        came = becomes_true(lambda: self.named(name, trace) or unless())
        assert came, f"no span {name}; there are {sorted({span.name for span in self.spans})}"
        return bool(self.named(name, trace))


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collector.spans += spans_in(body, self.headers.get("Content-Type", ""))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ancestors(span: Span, spans: list[Span]) -> list[str]:
    """Names of the spans above, and at last the id of one that is not the server's."""
    by_id = {other.id: other for other in spans}
    above = []
    while span.parent in by_id:
        span = by_id[span.parent]
        above.append(span.name)
    return [*above, span.parent]


@dataclass(frozen=True)
class Collected:
    """Everything that a collector got, and under which trace each endpoint's video is there."""

    collector: Collector
    traces: dict[str, str]

    def named(self, name: str, door: str) -> list[Span]:
        return self.collector.named(name, self.traces[door])


def traced(collector: Collector, server: Server, door: str) -> str:
    """A video through the endpoint; returns the caller's trace.

    Now and then Triton 2.51 ignores the header `traceparent` of a gRPC call and begins a trace of its own (see
    docs/run/tracing.md): that call is made again.
    """
    for _ in range(5):
        trace, strayed = f"{random.getrandbits(128):032x}", collector.without_parent()
        header = {"traceparent": f"00-{trace}-{CLIENTS_SPAN}-01"}
        with TextToVideo(replace(Connection(server.grpc_url), headers=header)) as client:
            assert getattr(client, door)("a red ball", **SMALL).video
        if collector.gets("encode", trace, unless=lambda before=strayed: collector.without_parent() > before):
            assert collector.gets("denoise", trace, unless=lambda: False)
            return trace
    raise AssertionError(f"five times no trace of the caller's at {door}")


@pytest.fixture(scope="module")
def collected(repository, tmp_path_factory) -> Iterator[Collected]:
    """A video through each endpoint."""
    log = tmp_path_factory.mktemp("traced") / "server.log"
    with collecting() as collector:
        options = ServerOptions(start_limit_s=START_LIMIT_S, repository=repository, log=log, traces_url=collector.url)
        with running_server(options) as server:
            traces = {door: traced(collector, server, door) for door in ENDPOINTS}
        yield Collected(collector, traces)  # the server has stopped: everything was sent


@pytest.mark.parametrize("door", ENDPOINTS)
def test_every_stage_is_a_span_under_the_clients_own(collected: Collected, door: str) -> None:
    for stage in ("prepare", "denoise", "decode", "encode"):
        found = collected.named(stage, door)
        assert found, stage
        assert ancestors(found[-1], collected.collector.spans)[-1] == CLIENTS_SPAN
        assert found[-1].end_ns > found[-1].start_ns


@pytest.mark.parametrize("door", ENDPOINTS)
def test_every_step_is_a_span_under_denoise_and_says_which_expert(collected: Collected, door: str) -> None:
    steps = collected.named("denoise_step", door)
    assert [span.attributes["step"] for span in steps] == [1, 2, 3, 4]
    assert {span.attributes["expert"] for span in steps} == {"high_noise_expert", "low_noise_expert"}
    assert all(ancestors(span, collected.collector.spans)[0] == "denoise" for span in steps)
    within = collected.named("denoise", door)[0]
    for span in steps:
        assert within.start_ns - 5_000_000 <= span.start_ns < span.end_ns
        assert span.end_ns <= within.end_ns
