"""Spans of both doors at an OpenTelemetry collector, as children of the client's own trace."""

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from wan_t2v_client import Connection, TextToVideo

from embedded.options import ServerOptions
from embedded.server import running_server

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CLIENTS_SPAN = "00f067aa0ba902b7"
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

    def named(self, name: str, trace: str = TRACE) -> list[Span]:
        return [span for span in self.spans if span.name == name and span.trace == trace]

    def wait_for(self, name: str, trace: str = TRACE) -> None:
        ends = time.monotonic() + 60
        while not self.named(name, trace):
            assert time.monotonic() < ends, f"no span {name}; there are {sorted({span.name for span in self.spans})}"
            time.sleep(0.2)


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
    thread = threading.Thread(target=server.serve_forever)
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


@pytest.fixture(scope="module")
def collected(repository, tmp_path_factory) -> Iterator[Collector]:
    """A video through each door: the caller's trace ends in 6 at the streaming door and in 7 at the unary one."""
    log = tmp_path_factory.mktemp("traced") / "server.log"
    with collecting() as collector:
        options = ServerOptions(repository=repository, log=log, traces_url=collector.url)
        with running_server(options) as server:
            for door, last in (("generate", "6"), ("generate_unary", "7")):
                header = {"traceparent": f"00-{TRACE[:-1]}{last}-{CLIENTS_SPAN}-01"}
                with TextToVideo(replace(Connection(server.grpc_url), headers=header)) as client:
                    assert getattr(client, door)("a red ball", **SMALL).video
                collector.wait_for("encode", TRACE[:-1] + last)
                collector.wait_for("denoise", TRACE[:-1] + last)
        yield collector  # the server has stopped: everything was sent


@pytest.mark.parametrize("last", ["6", "7"])
def test_every_stage_is_a_span_under_the_clients_own(collected: Collector, last: str) -> None:
    for stage in ("prepare", "denoise", "decode", "encode"):
        found = collected.named(stage, TRACE[:-1] + last)
        assert found, stage
        assert ancestors(found[-1], collected.spans)[-1] == CLIENTS_SPAN
        assert found[-1].end_ns > found[-1].start_ns


@pytest.mark.parametrize("last", ["6", "7"])
def test_every_step_is_a_span_under_denoise_and_says_which_expert(collected: Collector, last: str) -> None:
    steps = collected.named("denoise_step", TRACE[:-1] + last)
    assert [span.attributes["step"] for span in steps] == [1, 2, 3, 4]
    assert {span.attributes["expert"] for span in steps} == {"high_noise_expert", "low_noise_expert"}
    assert all(ancestors(span, collected.spans)[0] == "denoise" for span in steps)
    within = collected.named("denoise", TRACE[:-1] + last)[0]
    for span in steps:
        assert within.start_ns - 5_000_000 <= span.start_ns < span.end_ns
        assert span.end_ns <= within.end_ns
