"""A start in which nothing happens is noticed; one that computes, reads or tells anything is not."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from embedded.supervision.still_start import LEAST_CPU_S, LONGEST_LOOK_S, STILL_S, Activity, StillStart, activity_of
from tests.child_process import child_process


class World:
    def __init__(self, tmp_path: Path) -> None:
        self.log, self.activity, self.now = tmp_path / "log", Activity(0.0, 0), 100.0
        self.log.write_text("loading\n")
        self.looking = StillStart(self.log, lambda: self.activity, now=lambda: self.now)
        assert not self.looking.is_seen()

    def computes(self, cpu_s: float) -> None:
        self.activity = replace(self.activity, cpu_s=self.activity.cpu_s + cpu_s)

    def after(self, seconds: float) -> bool:
        """Whether it is seen within these seconds, at a look in each half of one."""
        seen = []
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            seen.append(self.looking.is_seen())
        return any(seen)


def test_nothing_for_a_while_is_seen(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.computes(LEAST_CPU_S / 2)
    assert not world.after(STILL_S / 2)
    world.computes(LEAST_CPU_S / 2.5)
    assert world.after(STILL_S / 2)


def test_whoever_computes_is_given_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    for _ in range(20):
        world.computes(LEAST_CPU_S * 1.01)
        assert not world.after(STILL_S * 0.9)
    assert world.after(STILL_S)


def test_whoever_reads_or_waits_for_a_slow_disk_is_given_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    for read in range(1, 20):
        world.activity = replace(world.activity, read_bytes=read * 4096)
        assert not world.after(STILL_S * 0.9)
    world.activity = replace(world.activity, waits_for_disk=True)
    assert not world.after(STILL_S * 20)
    world.activity = replace(world.activity, waits_for_disk=False)
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


def test_a_long_time_between_two_looks_says_nothing(tmp_path: Path) -> None:
    """All of it may have been stopped, whoever looks with it."""
    world = World(tmp_path)
    for _ in range(int(STILL_S / LONGEST_LOOK_S) - 1):
        world.now += 1000.0
        assert not world.looking.is_seen()


def test_the_activity_is_that_of_children_too() -> None:
    program = "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', %r], stdout=1)\ninput()"
    busy = "import time\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True)\ninput()"
    with child_process([sys.executable, "-c", program % busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"done\n"
        assert activity_of(parent.pid).cpu_s >= 0.4
        parent.communicate(b"\n\n")


def test_a_process_that_is_gone_has_none() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert activity_of(gone.pid) == Activity(0.0, 0)
