"""When a dead server gets a follower, and when it was the last."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from embedded.cleanup import Belongings
from embedded.errors import ServerError
from embedded.options import ServerOptions
from embedded.supervision import supervisor
from embedded.supervision.hang import HANG_S, Crash, Hang
from embedded.supervision.restarts import PAUSES_S, STEADY_S, Restarts
from embedded.supervision.supervisor import Supervisor
from wan_t2v.operate.run_directory import RunDirectory

SEGFAULT = -11
STARTS_FOR_EVER = -1.0
ABORTS = -2.0


@dataclass
class FakeTriton:
    """Lives for so long on the test's clock; 0 is a start that fails."""

    lives_s: float
    world: "World"
    started_at: float
    pid: int = 1
    dies_at: float = 0.0
    exit_code: int | None = None
    ended_by: str = ""

    def check(self) -> None:
        pass

    def answers(self) -> bool:
        return self.world.now - self.started_at < self.world.hangs_after_s

    def first_error(self) -> str | None:
        return None

    def is_ready(self) -> bool:
        self.dies_at = self.world.now + self.lives_s
        if self.lives_s == STARTS_FOR_EVER:
            return False
        if self.lives_s in (0, ABORTS):
            self.exit_code = SEGFAULT if self.lives_s else 1
            raise ServerError("the server did not start")
        return True

    def end(self, how: str = "end") -> None:
        self.ended_by = how
        self.exit_code = SEGFAULT if self.exit_code is None else self.exit_code

    def kill(self) -> None:
        self.end("kill")


@dataclass
class World:
    """A clock, and servers that live for `lives_s` in turn; after the last the supervisor is told to stop."""

    lives_s: Sequence[float]
    now: float = 0.0
    hangs_after_s: float = 1e9
    removed_at: float = 1e9
    stopped_at: float = 1e9
    events: list[dict[str, Any]] = field(default_factory=list)
    started: list[FakeTriton] = field(default_factory=list)
    watchdog: Any = field(default_factory=lambda: SimpleNamespace(check=lambda: None))
    in_background: bool = False
    still_starts: int = 0

    def start(self, *args: Any, **options: Any) -> FakeTriton:
        assert (options["log_wait_s"] > 0) == bool(self.started), "only its own last server may still hold the log"
        self.started.append(FakeTriton(self.lives_s[len(self.started)], self, self.now))
        return self.started[-1]

    def pause(self, keeper: Supervisor, seconds: float) -> None:
        self.now += 1.0
        triton = self.started[-1]
        if triton.exit_code is None and self.now >= triton.dies_at:
            triton.exit_code = SEGFAULT
            keeper.stopping = len(self.started) == len(self.lives_s)

    def end_python(self) -> None:
        """Nobody stops a process of it."""

    def is_still(self) -> bool:
        return len(self.started) <= self.still_starts

    def server_is_one(self) -> bool:
        return len(self.started) == 1 and self.now >= self.stopped_at

    def folder_is_there(self, own: Belongings) -> bool:
        return self.now < self.removed_at or len(self.started) > 1

    def run(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
        monkeypatch.setattr(supervisor.TritonProcess, "start", self.start)
        monkeypatch.setattr(supervisor, "ModelWatchdog", lambda *args, **options: self.watchdog)
        if not self.in_background:
            at_once = SimpleNamespace(begin=self.watchdog.check, leave=lambda wait: None)
            monkeypatch.setattr(supervisor, "BackgroundCheck", lambda check: at_once)
        monkeypatch.setattr(supervisor, "StillStart", lambda log, activity: SimpleNamespace(is_seen=self.is_still))
        monkeypatch.setattr(supervisor, "StoppedProcesses", lambda pid, report: self)
        monkeypatch.setattr(Belongings, "are_there", property(self.folder_is_there))
        monkeypatch.setattr(supervisor, "Restarts", lambda: Restarts(lambda: self.now))
        monkeypatch.setattr(supervisor, "Hang", lambda answers: Hang(answers, lambda: self.now))
        monkeypatch.setattr(supervisor.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(Supervisor, "_pause", lambda keeper, seconds: self.pause(keeper, seconds))
        log = tmp_path / "server.log"
        log.touch()
        Supervisor(ServerOptions(log=log), report=self.events.append).run()
        return [event["event"] for event in self.events]


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
