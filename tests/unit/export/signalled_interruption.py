"""SIGTERM, as of an eviction: a command removes what is half-written, and the handler of before comes back."""

import argparse
import multiprocessing
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import export.__main__
from export.atomic import holds_only, write_folder_atomically
from export.interruption import stopped_by_sigterm
from tests.waiting import becomes_true


@pytest.fixture
def before() -> Iterator[signal.Handlers]:
    """The handler of before: SIGTERM does nothing."""
    original = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield signal.SIG_IGN
    signal.signal(signal.SIGTERM, original)


def test_a_command_that_gets_sigterm_leaves_nothing_half_written(
    before: signal.Handlers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(options: argparse.Namespace) -> None:
        with write_folder_atomically(options.out, made_here=holds_only()) as partial:
            (partial / "model.plan").touch()
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("it goes on")

    monkeypatch.setattr(export.__main__, "_mini", command)
    assert export.__main__.main(["mini", "--out", str(tmp_path / "plans")]) == 130
    assert "nothing half-written is left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_sigterm_does_not_interrupt_the_removal() -> None:
    removed = []
    with pytest.raises(KeyboardInterrupt), stopped_by_sigterm():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            removed.append(True)
    assert removed


def wait_for_an_interrupt(started: Path, stopped: Path) -> None:
    try:
        started.touch()
        while True:
            time.sleep(0.01)
    except KeyboardInterrupt:
        stopped.touch()


def test_the_processes_of_a_command_are_stopped_in_order_too(tmp_path: Path) -> None:
    started, stopped = tmp_path / "started", tmp_path / "stopped"
    child = multiprocessing.get_context("spawn").Process(target=wait_for_an_interrupt, args=(started, stopped))
    child.start()
    try:
        assert becomes_true(started.exists)
        with pytest.raises(KeyboardInterrupt), stopped_by_sigterm():
            signal.raise_signal(signal.SIGTERM)
        assert becomes_true(stopped.exists)
    finally:
        child.kill()
        child.join()
