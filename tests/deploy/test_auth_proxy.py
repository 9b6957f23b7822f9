"""The proxy before Triton, a real Envoy: calls of the two endpoints pass as they are, no other message reaches a server."""

import contextlib
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from tritonclient.grpc import service_pb2

from tests.deploy.auth_proxy import FOLDER, configuration, envoy_program, running_envoy
from tests.deploy.chart.test_chart_routes import CALLERS_METHODS
from tests.deploy.rendering import pod

SERVICE = "/inference.GRPCInferenceService/"
UNARY = "text_to_video"
STREAM = "text_to_video_stream"
INNER = ("prepare", "denoiser", "mp4_encoder", "high_noise_expert")
TOO_LONG = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class StandIn(grpc.GenericRpcHandler):
    """What stands where Triton would: it keeps what reaches it, and answers each message with the same bytes."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.headers: list[dict[str, str]] = []

    def service(self, call: Any) -> grpc.RpcMethodHandler:
        self.headers.append(dict(call.invocation_metadata))
        if call.method.endswith("ModelStreamInfer"):
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._keep)

    def _keep(self, message: bytes, _: Any) -> bytes:
        self.messages.append(message)
        return message

    def _stream(self, messages: Iterator[bytes], _: Any) -> Iterator[bytes]:
        for message in messages:
            yield self._keep(message, None)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, StandIn]]:
    stand_in = StandIn()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[stand_in], options=TOO_LONG)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with running_envoy(tmp_path_factory.mktemp("envoy"), f"127.0.0.1:{port}") as address:
        yield address, stand_in
    server.stop(None).wait()


@pytest.fixture
def stand_in(proxied: tuple[str, StandIn]) -> StandIn:
    proxied[1].messages.clear()
    proxied[1].headers.clear()
    return proxied[1]


@pytest.fixture
def channel(proxied: tuple[str, StandIn]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(proxied[0], options=TOO_LONG) as connected:
        yield connected


def message(model: str, payload: bytes = b"") -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model, id="7")
    request.raw_input_contents.append(payload)
    return bytes(request.SerializeToString())


def field(number: int, wire_type: int, content: bytes) -> bytes:
    return bytes([number * 8 + wire_type]) + content


def named(model: bytes) -> bytes:
    return field(1, 2, bytes([len(model)]) + model)


def call(channel: grpc.Channel, sent: bytes, method: str = "ModelInfer", **options: Any) -> bytes:
    return bytes(channel.unary_unary(SERVICE + method)(sent, timeout=60, **options))


def refusal(
    channel: grpc.Channel, sent: bytes, method: str = "ModelInfer", **options: Any
) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, sent, method, **options)
    return refused.value.code(), str(refused.value.details())


def stream(channel: grpc.Channel, *sent: bytes, **options: Any) -> list[bytes]:
    return list(channel.stream_stream(SERVICE + "ModelStreamInfer")(iter(sent), timeout=60, **options))


LAST_COUNTS = {
    "a second name": named(UNARY.encode()) + named(b"denoiser"),
    "a first name": named(b"denoiser") + named(UNARY.encode()),
    "a name far behind": message(UNARY, bytes(300_000)) + named(b"denoiser"),
}
BROKEN = {
    "no bytes": b"",
    "no name": field(3, 2, b"\x01x"),
    "a name that is a number": field(1, 0, b"\x05") + named(UNARY.encode()),
    "a length beyond the end": field(1, 2, b"\x7fabc"),
    "a tag without end": b"\xff" * 11,
    "a length without end": field(1, 2, b"\xff" * 11),
    "a group": field(3, 3, b"") + named(UNARY.encode()),
    "half of a fixed number": named(UNARY.encode()) + field(9, 5, b"\x00"),
}


def test_calls_of_both_endpoints_pass_as_they_are(channel: grpc.Channel, stand_in: StandIn) -> None:
    sent = message(UNARY, bytes(range(256)) * 500)
    assert call(channel, sent) == sent
    streamed = [message(STREAM, bytes([n]) * size) for n, size in enumerate((0, 3_000_000, 1, 70_000, 16_384))]
    assert stream(channel, *streamed) == streamed
    assert stand_in.messages == [sent, *streamed]


def test_fields_that_are_not_known_here_pass(channel: grpc.Channel, stand_in: StandIn) -> None:
    sent = field(9, 0, b"\xff\x01") + field(10, 1, bytes(8)) + field(11, 5, bytes(4)) + named(UNARY.encode())
    assert call(channel, sent) == sent


@pytest.mark.parametrize("model", [*INNER, STREAM, "", "text_to_video ", "TEXT_TO_VIDEO", "text_to_video/../prepare"])
def test_a_call_of_another_model_ends_at_the_proxy(model: str, channel: grpc.Channel, stand_in: StandIn) -> None:
    code, words = refusal(channel, message(model))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "refused by the proxy" in words
    assert not stand_in.messages


@pytest.mark.parametrize("sent", [*LAST_COUNTS.values(), *BROKEN.values()], ids=[*LAST_COUNTS, *BROKEN])
def test_a_message_that_could_be_read_in_two_ways_ends_at_the_proxy(
    sent: bytes, channel: grpc.Channel, stand_in: StandIn
) -> None:
    assert refusal(channel, sent)[0] is grpc.StatusCode.PERMISSION_DENIED
    assert not stand_in.messages


@pytest.mark.parametrize(
    "bad",
    [
        message("denoiser"),
        message(UNARY),
        message("denoiser", bytes(200_000)),
        named(STREAM.encode()) + named(b"x"),
        *BROKEN.values(),
    ],
)
def test_a_message_for_another_model_is_replaced_and_the_stream_goes_on(
    bad: bytes, channel: grpc.Channel, stand_in: StandIn
) -> None:
    good = [message(STREAM, b"a" * 100_000), message(STREAM, b"b")]
    stream(channel, good[0], bad, good[1])
    assert [stand_in.messages[0], stand_in.messages[2]] == good
    replaced = service_pb2.ModelInferRequest.FromString(stand_in.messages[1])
    assert replaced.model_name.startswith("refused by the proxy (")
    assert len(stand_in.messages) == 3


def test_compressed_messages_are_refused_since_nobody_reads_them(channel: grpc.Channel, stand_in: StandIn) -> None:
    code, words = refusal(channel, message("denoiser", bytes(1000)), compression=grpc.Compression.Gzip)
    assert (code, "compressed" in words) == (grpc.StatusCode.PERMISSION_DENIED, True)
    stream(channel, message("denoiser", bytes(100_000)), compression=grpc.Compression.Gzip)
    assert [b"compressed" in reached for reached in stand_in.messages] == [True]


def test_a_message_beyond_the_limit_is_not_kept(channel: grpc.Channel, stand_in: StandIn) -> None:
    long = message(STREAM, bytes(64 * 2**20))
    stream(channel, long, message(STREAM, b"after"))
    assert b"too long" in stand_in.messages[0]
    assert stand_in.messages[1:] == [message(STREAM, b"after")]
    assert refusal(channel, long)[0] is not grpc.StatusCode.OK
    assert len(stand_in.messages) == 2


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_a_query_behind_the_method_hides_no_message(method: str, channel: grpc.Channel, stand_in: StandIn) -> None:
    """Envoy's routes take a path with a query for the same path."""
    called = channel.stream_stream(f"{SERVICE}{method}?x")(iter([message("denoiser")]), timeout=60)
    with contextlib.suppress(grpc.RpcError):
        list(called)
    assert not any(b"denoiser" in reached for reached in stand_in.messages)


@pytest.mark.parametrize("method", ["ServerLive", "ServerReady", "ModelReady", "ModelStatistics"])
def test_what_callers_ask_about_the_server_passes(method: str, channel: grpc.Channel, stand_in: StandIn) -> None:
    assert call(channel, b"\x0a\x01x", method) == b"\x0a\x01x"


@pytest.mark.parametrize(
    "method",
    [
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryRegister",
        "TraceSetting",
        "LogSettings",
        "ModelConfig/",
    ],
)
def test_what_an_operator_calls_has_no_route(method: str, channel: grpc.Channel, stand_in: StandIn) -> None:
    assert refusal(channel, b"", method)[0] is grpc.StatusCode.UNIMPLEMENTED
    assert not stand_in.messages


def test_nobody_says_by_a_header_who_calls(channel: grpc.Channel, stand_in: StandIn) -> None:
    call(channel, message(UNARY), metadata=[("caller", "stolen-key alice"), ("traceparent", "00-a-b-01")])
    assert "caller" not in stand_in.headers[0]
    assert stand_in.headers[0]["traceparent"] == "00-a-b-01"


def test_the_chart_runs_it_as_the_page_on_kubernetes_says(root: Path, tmp_path: Path) -> None:
    page = (root / "docs/run/kubernetes.md").read_text()
    (arguments,) = re.findall(r"--set-json 'authProxy\.args=(\[.*\])'", page)
    settings = dict(pair.split("=") for pair in re.search(r"--set (authProxy\.enabled.*) ", page)[1].split(","))
    container = next(
        found
        for found in pod(
            "values-cpu", f"authProxy.args={arguments}", 'authProxy.image="envoy"', 'authProxy.configMap="two-endpoints"',
            f"authProxy.enabled={settings['authProxy.enabled']}",
        )["initContainers"]
        if found["name"] == "auth-proxy"
    )  # fmt: skip
    assert {"name": "config-proxy", "mountPath": "/config", "readOnly": True} in container["volumeMounts"]
    written = yaml.safe_load((FOLDER / "envoy.yaml").read_text())["static_resources"]["listeners"][0]
    assert container["ports"][0]["containerPort"] == written["address"]["socket_address"]["port_value"]
    here = [argument.replace("/config/", f"{tmp_path}/") for argument in container["args"]]
    (tmp_path / "envoy.yaml").write_text(configuration(9001, "127.0.0.1:8001"))
    assert subprocess.run([envoy_program(), *here, "--mode", "validate"], capture_output=True).returncode == 0


def test_the_routes_are_those_of_the_chart() -> None:
    methods = re.findall(r"GRPCInferenceService/(\w+)", (FOLDER / "envoy.yaml").read_text())
    assert sorted(methods) == sorted(CALLERS_METHODS)
