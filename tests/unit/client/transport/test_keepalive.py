"""Pings that keep a silent call alive, and no more of them than a server accepts."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from wan_t2v_client import Connection, RequestRefused, TextToVideo, Unavailable
from wan_t2v_client.transport import keepalive
from wan_t2v_client.transport.keepalive import KEEPALIVE_S, channel_arguments

from tests.fakes.scripted_server import MADE, VIDEO, Pause, serving

SILENT = [Pause(6.0), *MADE]  # a default server throws a client out at its fifth ping or so; gRPC sends one a second
A_SERVER = """
import time
from tests.fakes.scripted_server import Pause, Step, serving
with serving([Step(1), Pause()]) as server:
    print(server.url, flush=True)
    time.sleep(100)
"""
ONE_PING_A_SERVER_ACCEPTS_S = 300  # gRPC's doc/keepalive.md, and Triton's --grpc-http2-min-recv-ping-interval-...


def test_by_default_no_server_is_pinged_more_often_than_it_accepts_and_pings_do_not_run_out() -> None:
    arguments = dict(channel_arguments(KEEPALIVE_S))
    assert arguments["grpc.keepalive_time_ms"] > 1000 * ONE_PING_A_SERVER_ACCEPTS_S
    assert arguments["grpc.http2.max_pings_without_data"] == 0
    assert arguments["grpc.keepalive_permit_without_calls"] == 0


def test_grpc_connects_again_as_soon_as_a_retry_may_want_it() -> None:
    """By default it waits up to two minutes, and fails every call meanwhile."""
    assert dict(channel_arguments(KEEPALIVE_S))["grpc.max_reconnect_backoff_ms"] <= 2000


def test_a_default_server_throws_out_who_pings_too_often() -> None:
    """So pings are sent as often as asked for; the next test would hold without any."""
    with serving(SILENT) as server, pytest.raises(Unavailable, match="Too many pings"):
        TextToVideo(Connection(server.url, keepalive_s=0.2)).generate("a ball")


def test_a_server_that_allows_it_may_be_pinged_often() -> None:
    allowed = [("grpc.http2.min_ping_interval_without_data_ms", 50)]
    with serving(SILENT, options=allowed) as server:
        assert TextToVideo(Connection(server.url, keepalive_s=0.2)).generate("a ball").video == VIDEO


def test_a_server_that_is_gone_without_a_word_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped, it neither answers nor closes its connections, like a machine whose power fails."""
    monkeypatch.setattr(keepalive, "KEEPALIVE_ANSWER_S", 0.5)
    process = subprocess.Popen([sys.executable, "-c", A_SERVER], cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        client = TextToVideo(Connection(process.stdout.readline().strip(), keepalive_s=0.5))
        with pytest.raises(Unavailable, match="ping timeout"):
            client.generate("a ball", on_progress=lambda progress: process.send_signal(signal.SIGSTOP))
    finally:
        process.kill()
        process.wait()


def test_a_keepalive_of_no_time_is_refused() -> None:
    with pytest.raises(RequestRefused, match="keepalive_s: got 0"):
        TextToVideo(Connection(keepalive_s=0))
