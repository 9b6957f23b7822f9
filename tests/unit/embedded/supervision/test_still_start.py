"""A start in which nothing happens is noticed; one that computes or tells anything is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from embedded.supervision.still_start import LEAST_CPU_S, STILL_S, StillStart, cpu_seconds


class World:
    def __init__(self, tmp_path: Path) -> None:
        self.log, self.cpu_s, self.now = tmp_path / "log", 0.0, 100.0
        self.log.write_text("loading\n")
        self.looking = StillStart(self.log, lambda: self.cpu_s, now=lambda: self.now)
        assert not self.looking.is_seen()

    def after(self, seconds: float) -> bool:
        self.now += seconds
        return self.looking.is_seen()


def test_nothing_for_a_while_is_seen(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.cpu_s = LEAST_CPU_S / 2
    assert not world.after(STILL_S / 2)
    world.cpu_s = LEAST_CPU_S * 0.9
    assert world.after(STILL_S / 2)


def test_whoever_computes_is_given_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    for _ in range(20):
        world.cpu_s += LEAST_CPU_S
        assert not world.after(STILL_S * 0.9)
    assert world.after(STILL_S)


def test_whoever_tells_anything_is_given_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert not world.after(STILL_S * 0.9)
    with world.log.open("a") as log:
        log.write("successfully loaded\n")
    assert not world.after(STILL_S * 0.9)
    world.log.unlink()
    assert not world.after(STILL_S * 0.9), "a log that somebody removed is a change too"
    assert world.after(STILL_S)


def test_processor_time_is_that_of_children_too() -> None:
    program = "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', %r], stdout=1)\ninput()"
    busy = "import time\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", program % busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"done\n"
        assert cpu_seconds(parent.pid) >= 0.5
        parent.communicate(b"\n\n")


def test_a_process_that_is_gone_has_none() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert cpu_seconds(gone.pid) == pytest.approx(0.0)
