"""The benchmarks run against a real server and count what happens. No timing is asserted: the machine is not quiet."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.baselines.comparison import SAME_VIDEO_DB
from benchmarks.baselines.psnr import psnr_db
from benchmarks.baselines.servers import VideoServer, running_servers
from benchmarks.harness.installed_copy import Installed
from benchmarks.harness.repository_copy import copy_repository
from benchmarks.load import mlperf, perf_analyzer, run
from embedded.server import Server
from export.to_onnx.install import install_export
from tests.server.calls import samples
from tests.waiting import wait_until
from training.judge.through_server import frames_from_mp4

OUTCOMES = ("finished", "cancelled")


def ended(server: Server) -> dict[str, float]:
    """How many streams ended, by outcome."""
    counts = samples(server)
    name = 'wan_t2v_generations_ended_total{{door="text_to_video_stream",outcome="{}"}}'
    return {outcome: counts.get(name.format(outcome), 0.0) for outcome in OUTCOMES}


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_load_counts_who_got_a_video_and_who_left_and_the_server_counts_the_same(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ended(server)
    sizes = "32x48x5=1,48x32x5=1"
    options = ["--requests", "10", "--steps", "12", "--rate", "3", "--sizes", sizes, "--cancel-ratio", "0.5"]
    assert run.main(["--url", server.grpc_url, *options, "--seed", "1"]) == 0
    found = last_line(capsys)
    assert found["finished"] + found["cancelled"] == 10
    assert found["cancelled"] > 0
    assert found["refused"] == found["failed"] == 0
    assert sum(row["count"] for row in found["latency_s"].values()) == found["finished"]
    assert found["queue_wait_s"]["count"] == 10
    assert 11 * found["finished"] <= found["step_gap_s"]["count"] < 11 * 10
    wait_until(lambda: sum(ended(server).values()) - sum(before.values()) == 10)
    # A caller may leave so late that the video is finished all the same.
    assert 0 < ended(server)["cancelled"] - before["cancelled"] <= found["cancelled"]


def test_load_tells_refusals_from_failures(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """One runs and sixteen wait; the others of 30 at once are told to come later."""
    options = ["--requests", "30", "--steps", "4", "--rate", "1000", "--sizes", "32x48x5", "--cancel-ratio", "0"]
    assert run.main(["--url", server.grpc_url, *options]) == 0
    found = last_line(capsys)
    assert found["refused"] > 0 and found["failed"] == 0
    assert found["finished"] + found["refused"] == 30
    assert all(error.startswith("Unavailable: ") for error in found["errors"])


def test_mlperfs_request_has_its_steps_and_its_latents(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlperf.main(["--url", server.grpc_url, "--queries", "2", "--samples", "3"]) == 0
    found = last_line(capsys)
    assert found["official"] is False and found["differs"]
    assert (found["steps"], found["guidance"]) == (20, [4.0, 3.0])
    assert found["distinct"] == found["prompts"] == 3
    assert found["single_stream"]["queries"] == 2


def test_perf_analyzer_measures_both_endpoints_to_the_video(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert perf_analyzer.main(["--url", server.grpc_url, "--requests", "2", "--steps", "3"]) == 0
    found = last_line(capsys)
    for level in ("concurrency_1", "concurrency_2"):
        unary, stream = found["unary"][level], found["stream"][level]
        assert unary["responses"] == 1 and unary["requests"] == stream["requests"] == 2
        assert stream["responses"] >= 3 + 1
        assert stream["step_gap_s"]["count"] == 2 * (3 - 1)
        assert stream["latency_s"]["max"] > stream["first_response_s"]["max"]


@pytest.fixture(scope="module")
def servers(checkpoint: Path, exported: Path, repository: Path, tmp_path_factory: Any) -> Any:
    folder = tmp_path_factory.mktemp("servers")
    own = install_export(exported, copy_repository(repository, folder))
    with running_servers(Installed(checkpoint, exported, own), folder, threads=2) as running:
        yield {server.name: server for server in running}


@pytest.mark.nightly
def test_the_servers_that_are_compared_make_the_same_video(servers: dict[str, VideoServer]) -> None:
    videos = {name: server.generate(3, 4) for name, server in servers.items()}
    assert frames_from_mp4(videos["ours"]).ndim == 4
    assert videos.keys() == {"ours", "pytriton", "fastapi"}
    for video in videos.values():
        assert psnr_db(video, videos["ours"]) >= SAME_VIDEO_DB
    assert psnr_db(servers["ours"].generate(4, 4), videos["ours"]) < SAME_VIDEO_DB, "another seed would be seen"


@pytest.mark.nightly
def test_a_caller_who_leaves_harms_none_of_them(servers: dict[str, VideoServer]) -> None:
    for server in servers.values():
        server.leave(0.2)
        assert server.generate(3, 1)
