"""A server is drained before it is stopped, and what happens to those who stop it without."""

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psutil
import pytest

from embedded.errors import ServerError
from embedded.options import ServerOptions
from embedded.server import Server, running_server
from tests.server.calls import ENDPOINTS, LONG, SMALL, in_background, operate, probe, samples, unary
from tests.waiting import wait_until
from wan_t2v.operate.processes import stub_pids


def under_way(server: Server, in_flight: int, queued: int) -> bool:
    found = samples(server)
    return (found["wan_t2v_generations_in_flight"], found["wan_t2v_generations_queued"]) == (in_flight, queued)


def test_drain_probe_repair_deadline_and_sigterm(options: ServerOptions) -> None:
    """One server for all of it: a start costs more than each of these."""
    events: list[dict[str, Any]] = []
    with running_server(options, on_event=events.append) as server, ThreadPoolExecutor(8) as pool:
        assert probe(server, "ready") == (0, "") and probe(server, "live") == (0, "")
        a_deadline_that_passes_stops_the_loop_of_a_unary_caller(server)
        another_server_that_is_given_its_directory_does_not_start(server, options)
        for door in ENDPOINTS:
            a_drain_ends_when_the_running_video_does(server, pool, door)
        a_dead_process_is_seen_until_it_is_repaired(server, events)
        sigterm_tells_the_callers_whose_videos_it_ends(server, pool)


def a_deadline_that_passes_stops_the_loop_of_a_unary_caller(server: Server) -> None:
    """Nothing was measured yet, so the request is let in; an ensemble's caller can stop it in no other way."""
    for timeout_s in (2, 8, 32):  # a busy machine may need more than the first to come to a step
        answer = str(unary(server, LONG, timeout=timeout_s * 1_000_000))
        if "cancelled after step" in answer:
            break
    assert answer.startswith("StatusCode.CANCELLED") and "cancelled after step" in answer
    wait_until(lambda: under_way(server, 0, 0))


def a_drain_ends_when_the_running_video_does(server: Server, pool: ThreadPoolExecutor, door: str) -> None:
    running = in_background(pool, door, server, **LONG)
    wait_until(lambda: under_way(server, 1, 0))
    waiting = [in_background(pool, name, server, **SMALL) for name in ENDPOINTS]
    wait_until(lambda: under_way(server, 1, 2))
    drain = operate(server, "drain", "--wait-s", "100")
    for refused in (*waiting, *(in_background(pool, name, server, **SMALL) for name in ENDPOINTS)):
        assert "takes no new work" in str(refused.result(timeout=60))
    assert not running.done(), "those who wait are told while the video still runs"
    assert probe(server, "live") == (0, "")
    code, reason = probe(server, "ready")
    assert code == 1 and "the server is draining" in reason
    told, _ = drain.communicate(timeout=120)
    assert drain.returncode == 0, told
    assert "draining: 1 in flight" in told and told.endswith("empty: the server can be stopped\n")
    # the video takes longer than this from the drain's beginning on
    assert isinstance(running.result(timeout=5), bytes), "the drain did not wait for it"
    assert operate(server, "undrain").wait(60) == 0
    assert probe(server, "ready") == (0, "")
    assert isinstance(unary(server, SMALL), bytes)


def a_dead_process_is_seen_until_it_is_repaired(server: Server, events: list[dict[str, Any]]) -> None:
    os.kill(server.supervisor_pid, signal.SIGSTOP)  # nobody repairs meanwhile
    (victim,) = stub_pids(server.pid)["mp4_encoder"]
    os.kill(victim, signal.SIGKILL)
    for what in ("live", "ready"):
        code, reason = probe(server, what)
        assert code == 1 and "mp4_encoder has 0 of its 1 Python processes" in reason
    os.kill(server.supervisor_pid, signal.SIGCONT)
    wait_until(lambda: any(event["event"] == "repaired" for event in events))
    assert probe(server, "live") == (0, "") and probe(server, "ready") == (0, "")


def sigterm_tells_the_callers_whose_videos_it_ends(server: Server, pool: ThreadPoolExecutor) -> None:
    """All of them on 2.51, which refuses the calls between models from then on; 2.71 lets running videos go on for
    `--exit-timeout-secs`.
    """
    callers: list[Future[Any]] = [in_background(pool, door, server, **LONG) for door in ENDPOINTS]
    wait_until(lambda: under_way(server, 1, 1))
    process = psutil.Process(server.pid)
    process.terminate()
    answers = [caller.result(timeout=60) for caller in callers]
    told = [str(answer) for answer in answers if not isinstance(answer, bytes)]
    assert all("try again" in answer and "Server not ready" in answer for answer in told), told
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def another_server_that_is_given_its_directory_does_not_start(server: Server, options: ServerOptions) -> None:
    """The launcher gives each its own; who names one for several is told."""
    config = options.repository / "denoiser/configs/cpu.pbtxt"
    named = f'\nparameters {{ key: "run_directory", value {{ string_value: "{server.run_directory}" }} }}\n'
    config.write_text(config.read_text() + named)
    message = rf"belongs to the running server with pid {server.pid}: give each server a directory of its own"
    second = replace(options, log=options.log.with_name("2"), models=("denoiser",))
    with pytest.raises(ServerError, match=message), running_server(second):
        pass
