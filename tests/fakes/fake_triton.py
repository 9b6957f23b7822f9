"""A world for the supervisor: servers that live for so long on a clock of the test's own."""

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
from embedded.supervision.hang import Hang
from embedded.supervision.restarts import Restarts
from embedded.supervision.supervisor import Supervisor

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
    start_errors: list[Exception | None] = field(default_factory=list)
    watchdog_errors: list[Exception] = field(default_factory=list)

    def start(self, *args: Any, **options: Any) -> FakeTriton:
        if self.start_errors and (error := self.start_errors.pop(0)):
            raise error
        assert (options["log_wait_s"] > 0) == bool(self.started), "only its own last server may still hold the log"
        self.started.append(FakeTriton(self.lives_s[len(self.started)], self, self.now))
        return self.started[-1]

    def made_watchdog(self, *args: Any, **options: Any) -> Any:
        if self.watchdog_errors:
            raise self.watchdog_errors.pop()
        return self.watchdog

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
        monkeypatch.setattr(supervisor, "ModelWatchdog", self.made_watchdog)
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
