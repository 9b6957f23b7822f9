"""When a dead server gets a follower, and when it was the last."""

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from embedded.cleanup import Belongings
from embedded.errors import ServerError
from embedded.supervision import supervisor
from embedded.supervision.hang import HANG_S, Crash
from embedded.supervision.restarts import PAUSES_S, STEADY_S
from embedded.supervision.supervisor import Supervisor
from tests.fakes.fake_triton import ABORTS, SEGFAULT, STARTS_FOR_EVER, FakeTriton, World
from wan_t2v.operate.run_directory import RunDirectory


def test_a_server_that_died_gets_a_follower(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World([5.0, 5.0])
    assert world.run(monkeypatch, tmp_path) == ["ready", "server died", "started again"]
    assert (tmp_path / "server.log.died").exists() and world.events[1]["exit_code"] == SEGFAULT


def test_a_server_that_was_ready_once_is_never_given_up_but_started_ever_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deaths = len(PAUSES_S) + 3
    world = World([5.0] * deaths)
    assert world.run(monkeypatch, tmp_path) == ["ready", *["server died", "started again"] * (deaths - 1)]
    pauses = [event["next_start_in_s"] for event in world.events if event["event"] == "server died"]
    assert pauses == [*PAUSES_S, *[PAUSES_S[-1]] * (deaths - 1 - len(PAUSES_S))]
    starts = [triton.started_at for triton in world.started]
    for pause_s, earlier, later in zip(pauses, starts, starts[1:], strict=False):
        assert later - earlier >= 5.0 + pause_s


def test_a_server_that_served_for_a_while_starts_the_pauses_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World([5.0, 5.0, 2 * STEADY_S, 5.0, 5.0])
    world.run(monkeypatch, tmp_path)
    pauses = [event["next_start_in_s"] for event in world.events if event["event"] == "server died"]
    assert pauses == [PAUSES_S[0], PAUSES_S[1], PAUSES_S[0], PAUSES_S[1]]


def test_a_follower_that_does_not_start_is_followed_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    events = World([2 * STEADY_S, 0, 0, 0, 0, 5.0]).run(monkeypatch, tmp_path)
    assert events == ["ready", "server died", *["not started again"] * 4, "started again"]


@pytest.mark.parametrize(
    "error",
    [ServerError("no fork"), OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread")],
    ids=lambda error: type(error).__name__,
)
def test_a_follower_that_cannot_even_be_started_is_followed_too(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World([2 * STEADY_S, 0, 5.0], start_errors=[None, error, None, error, error])
    kills: list[FakeTriton] = []
    monkeypatch.setattr(FakeTriton, "kill", lambda triton: (triton.end("kill"), kills.append(triton)))
    assert world.run(monkeypatch, tmp_path) == ["ready", "server died", *["not started again"] * 4, "started again"]
    assert str(error) in world.events[2]["error"]
    once = [kills.count(triton) for triton in world.started[:2]]
    assert once == [1, 1], "by the next time their process groups' ids may be others'"


def test_a_follower_that_does_not_start_and_cannot_be_ended_is_followed_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a free descriptor neither /proc nor /dev/shm can be listed, which ending it does."""

    def kill(triton: FakeTriton) -> None:
        triton.end("kill")
        if triton.lives_s == 0:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    world = World([200.0, 0, 5.0])
    monkeypatch.setattr(FakeTriton, "kill", kill)
    events = world.run(monkeypatch, tmp_path)
    assert events.count("check failed") == 1 and "failed" not in events
    assert [event for event in events if event != "check failed"] == (
        ["ready", "server died", "not started again", "started again"]
    )


@pytest.mark.parametrize("aborted", [1, 2])
def test_a_first_start_that_ends_by_a_signal_is_tried_again(
    aborted: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events = World([*[ABORTS] * aborted, 5.0]).run(monkeypatch, tmp_path)
    assert events == [*["start aborted"] * aborted, "ready"]


def test_a_first_start_in_which_nothing_happens_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Triton waits for ever for a Python process that died while it loaded, and says nothing."""
    world = World([STARTS_FOR_EVER, 5.0], still_starts=1)
    assert world.run(monkeypatch, tmp_path) == ["start aborted", "ready"]
    assert world.started[0].ended_by == "kill" and "nothing happened for 10 s" in world.events[0]["error"]


def test_a_first_start_that_always_ends_by_a_signal_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert World([ABORTS] * 3).run(monkeypatch, tmp_path) == ["start aborted", "start aborted", "failed"]


def test_a_server_that_hangs_is_killed_and_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World([1e6, 5.0])
    world.hangs_after_s = 100.0
    assert world.run(monkeypatch, tmp_path) == ["ready", "server hangs", "server died", "started again"]
    assert world.started[0].ended_by == "kill"
    assert 100.0 + HANG_S <= world.started[1].started_at <= 110.0 + HANG_S


def test_a_server_that_was_stopped_is_killed_and_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World([1e6, 5.0], stopped_at=50.0)
    assert world.run(monkeypatch, tmp_path) == ["ready", "server hangs", "server died", "started again"]
    assert world.started[0].ended_by == "kill" and world.started[1].started_at < 60.0


def test_a_server_that_does_not_answer_is_not_asked_to_repair_its_models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world, looked_at = World([1e6, 5.0], hangs_after_s=100.0), list[float]()
    world.watchdog = SimpleNamespace(check=lambda: looked_at.append(world.now))
    world.run(monkeypatch, tmp_path)
    assert looked_at and not [at for at in looked_at if 100.0 <= at < 100.0 + HANG_S]


def test_a_server_is_looked_at_while_a_model_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world, loaded = World([1e6, 5.0], stopped_at=50.0, in_background=True), threading.Event()
    world.watchdog = SimpleNamespace(check=loaded.wait)
    monkeypatch.setattr(FakeTriton, "kill", lambda triton: (triton.end("kill"), loaded.set()))
    assert world.run(monkeypatch, tmp_path) == ["ready", "server hangs", "server died", "started again"]


def test_a_server_that_hangs_in_its_crash_is_killed_though_it_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World([1e6, 5.0])
    monkeypatch.setattr(supervisor, "Crash", lambda log: Crash(log, lambda: world.now))

    def answers(triton: FakeTriton) -> bool:
        if triton is world.started[0] and world.now == 50.0:
            (tmp_path / "server.log").write_text("terminate called\nSignal (6) received.\n")
        return True

    monkeypatch.setattr(FakeTriton, "answers", answers)
    assert world.run(monkeypatch, tmp_path) == ["ready", "server hangs", "server died", "started again"]
    assert world.events[1]["why"] == "in its crash" and world.started[1].started_at < 60.0


def fails(*args: object, **options: object) -> Any:
    raise psutil.AccessDenied(7)


CHECKS: dict[str, Callable[[pytest.MonkeyPatch, World], None]] = {
    "stopped processes": lambda patch, world: patch.setattr(World, "end_python", fails),
    "hang": lambda patch, world: patch.setattr(FakeTriton, "answers", fails),
    "folder": lambda patch, world: patch.setattr(World, "folder_is_there", fails),
    "memory": lambda patch, world: patch.setattr(
        supervisor, "MemoryRestart", lambda use, run: SimpleNamespace(is_due=fails)
    ),
    "models": lambda patch, world: setattr(world, "watchdog", SimpleNamespace(check=fails)),
}


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_that_fails_is_told_once_and_ends_no_server(
    check: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World([50.0])
    checks = dict.fromkeys(CHECKS, 0)
    if check != "models":
        world.watchdog = SimpleNamespace(check=lambda: checks.update(models=checks["models"] + 1))
    CHECKS[check](monkeypatch, world)
    assert world.run(monkeypatch, tmp_path) == ["ready", "check failed"]
    assert world.events[1] == {"event": "check failed", "check": check, "error": "AccessDenied: (pid=7)"}
    assert world.now >= 50.0, "the server was watched to its end"
    assert check == "models" or checks["models"] > 40, "the checks after it go on"


def test_a_watchdog_that_cannot_be_made_is_made_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world, checked_at = World([50.0]), list[float]()
    world.watchdog = SimpleNamespace(check=lambda: checked_at.append(world.now))
    world.watchdog_errors = [OSError(errno.ENFILE, "Too many open files in system")]
    assert world.run(monkeypatch, tmp_path) == ["ready", "check failed"]
    assert len(checked_at) > 40


def test_a_server_that_answers_late_now_and_then_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World([200.0])
    monkeypatch.setattr(FakeTriton, "answers", lambda triton: int(world.now) % int(HANG_S - 2) == 0)
    assert world.run(monkeypatch, tmp_path) == ["ready"]


def test_a_first_start_that_fails_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert World([0, 5.0]).run(monkeypatch, tmp_path) == ["failed"]


def test_a_log_that_somebody_removed_does_not_end_the_supervisor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World([5.0, 5.0])
    monkeypatch.setattr(supervisor, "died_log", lambda log: tmp_path / "no folder" / "log")
    assert world.run(monkeypatch, tmp_path) == ["ready", "server died", "started again"]


def test_a_server_that_died_while_it_drained_was_the_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(RunDirectory, "draining", property(lambda run: True))
    assert World([5.0, 5.0]).run(monkeypatch, tmp_path) == ["ready", "failed"]


def test_a_server_that_was_told_to_stop_was_the_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(supervisor, "was_told_to_stop", lambda log: True)
    assert World([5.0, 5.0]).run(monkeypatch, tmp_path) == ["ready", "failed"]


def test_a_stop_during_the_start_kills_it_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """While it loads models tritonserver heeds no SIGTERM, and nobody waits for an answer of it."""
    world = World([STARTS_FOR_EVER])

    def pause(keeper: Supervisor, seconds: float) -> None:
        keeper.stopping = True

    monkeypatch.setattr(world, "pause", pause)
    assert world.run(monkeypatch, tmp_path) == []
    assert world.started[0].ended_by == "kill"


def test_a_start_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World([STARTS_FOR_EVER])
    monkeypatch.setattr(world, "pause", lambda keeper, seconds: setattr(world, "now", world.now + 100.0))
    assert world.run(monkeypatch, tmp_path) == ["failed"]
    assert "not ready after 180 s: no error in its log" in world.events[0]["error"]
    assert world.started[0].ended_by == "kill"


def test_a_server_that_serves_is_told_to_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World([5.0])
    monkeypatch.setattr(world, "pause", lambda keeper, seconds: setattr(keeper, "stopping", True))
    assert world.run(monkeypatch, tmp_path) == ["ready"]
    assert world.started[0].ended_by == "end"


def test_a_server_that_changes_tensors_never_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World([5.0])

    def changes_tensors(triton: FakeTriton) -> None:
        raise ServerError("Triton's Python backend changes tensors")

    monkeypatch.setattr(FakeTriton, "check", changes_tensors)
    assert world.run(monkeypatch, tmp_path) == ["failed"]
    assert world.events[0]["error"] == "Triton's Python backend changes tensors"
    assert world.started[0].ended_by == "kill"


def test_a_server_whose_folder_was_removed_is_followed_with_a_new_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World([200.0, 5.0], removed_at=50.0)
    assert world.run(monkeypatch, tmp_path) == ["ready", "folder removed", "server died", "started again"]
    assert world.started[0].ended_by == "kill"
    assert not Path(world.events[1]["folder"]).exists(), "the new one is removed at the end"


def test_a_folder_that_cannot_be_made_again_yet_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Such as on a full disk."""
    world, remake_folder = World([200.0, 5.0], removed_at=50.0), Belongings.remake_folder
    tries = iter([ServerError("No space left on device"), OSError(errno.EIO, "Input/output error"), None])

    def remake(own: Belongings) -> None:
        if error := next(tries):
            raise error
        remake_folder(own)

    monkeypatch.setattr(Belongings, "remake_folder", remake)
    events = ["ready", "folder removed", "server died", *["not started again"] * 2, "started again"]
    assert world.run(monkeypatch, tmp_path) == events


def test_events_that_no_caller_reads_any_more_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", nobody)
        supervisor._print({"event": "died"})
        with contextlib.suppress(BrokenPipeError):
            nobody.close()
