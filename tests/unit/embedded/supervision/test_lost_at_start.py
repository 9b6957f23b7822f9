"""A Python process that dies during a start is noticed, unless Triton says itself what went wrong."""

import pytest

from embedded.supervision import lost_at_start
from embedded.supervision.lost_at_start import LOST_S, LostAtStart
from wan_t2v.operate.processes import Stub


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.living, self.error, self.now = [Stub(1, "prepare", ""), Stub(2, "denoiser", "")], None, 0.0
        monkeypatch.setattr(lost_at_start, "stubs", lambda pid: self.living)
        self.looking = LostAtStart(100, lambda: self.error, now=lambda: self.now)

    def after(self, seconds: float) -> str | None:
        self.now += seconds
        return self.looking.model()


def test_a_process_that_died_is_told_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert world.after(0) is None and world.after(100) is None, "all live"
    world.living = world.living[:1]
    assert world.after(0) is None and world.after(LOST_S / 2) is None
    assert world.after(LOST_S / 2) == "denoiser"


def test_one_of_a_model_that_says_why_it_failed_is_left_to_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.after(0)
    world.living, world.error = [], "Failed to create instance: a file is missing"
    assert world.after(0) is None and world.after(10 * LOST_S) is None


def test_processes_that_come_later_are_none_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.after(0)
    world.living = [*world.living, Stub(3, "vae_decoder", "")]
    assert world.after(10 * LOST_S) is None
