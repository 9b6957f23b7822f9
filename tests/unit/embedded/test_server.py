"""What the launcher makes of its supervisor's events."""

import errno
import io
import json
import os
import queue
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from embedded import server
from embedded.errors import ServerError, StartStopped
from embedded.options import ServerOptions


def listened(*kinds: str) -> tuple[dict[str, Any], list[str]]:
    """How the start ended, and the events that were passed on."""
    passed: list[str] = []
    return heard(lambda event: passed.append(event["event"]), *kinds), passed


def heard(on_event: Callable[[dict[str, Any]], None], *kinds: str) -> dict[str, Any]:
    """How the start ended, once all events were passed on."""
    lines = io.BytesIO(b"".join(json.dumps({"event": kind}).encode() + b"\n" for kind in kinds))
    told = server._listen(lines, on_event).get(timeout=60)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.name.endswith("(listen)"):
            thread.join(60)
    return told


@pytest.mark.parametrize(
    ("events", "told", "passed"),
    [
        (["ready", "died", "repaired"], "ready", ["died", "repaired", "ended"]),
        (["start aborted", "ready"], "ready", ["start aborted", "ended"]),
        (["few open files", "failed"], "failed", ["few open files"]),
        (["failed"], "failed", []),
        ([], None, []),
    ],
)
def test_the_end_of_the_start_is_told_apart_from_other_events(
    events: list[str], told: str | None, passed: list[str]
) -> None:
    first, others = listened(*events)
    assert (first.get("event"), others) == (told, passed)


def test_a_supervisor_that_ends_without_a_message_is_told_with_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = tmp_path / "supervisor"
    silent.write_text("#!/bin/sh\nread options\n")
    silent.chmod(0o755)
    monkeypatch.setattr(server, "sys", SimpleNamespace(executable=str(silent)))
    monkeypatch.setattr(server, "check_repository", lambda repository: None)
    options = ServerOptions(log=tmp_path / "triton.log")
    message = f"ended without a message; see {options.log}, or start again"
    with pytest.raises(ServerError, match=re.escape(message)), server.running_server(options):
        pass


def test_a_stop_is_obeyed_while_the_start_goes_on() -> None:
    stop = server.Stop()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(StartStopped):
        server._first_event(queue.SimpleQueue(), stop)


def test_what_is_ready_before_the_stop_is_told() -> None:
    first: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    first.put({"event": "ready"})
    assert server._first_event(first, server.Stop()) == {"event": "ready"}


@pytest.mark.parametrize(
    ("events", "by_itself", "stopped"),
    [
        (["died", "repaired", "server died", "started again"], False, False),
        (["failed", "ended"], True, True),
        (["ended"], True, True),
    ],
)
def test_a_command_ends_with_a_server_that_does(
    capsys: pytest.CaptureFixture[str], events: list[str], by_itself: bool, stopped: bool
) -> None:
    end = server.CommandEnd()
    for event in events:
        end.tell({"event": event})
    assert (end.by_itself, end.stop.is_set()) == (by_itself, stopped)
    told = [event for event in events if event != "ended" or events == ["ended"]]
    assert capsys.readouterr().err.splitlines() == [f"event={event}" for event in told]


def test_the_end_after_a_stop_is_not_the_servers_own(capsys: pytest.CaptureFixture[str]) -> None:
    end = server.CommandEnd()
    end.stop.set()
    end.tell({"event": "ended"})
    assert not end.by_itself and capsys.readouterr().err == ""


def test_a_server_that_failed_for_good_ends_a_command_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of `make serve 2>&1 | head -1`, after any number of events."""
    end = server.CommandEnd()
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as nobody, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", nobody)
        heard(end.tell, "ready", "died", "repaired", "failed")
    assert end.by_itself and end.stop.wait(0)


def test_a_line_that_a_full_disk_loses_is_followed_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter([OSError(errno.ENOSPC, "No space left on device"), None])
    written: list[str] = []

    class Log(io.StringIO):
        def write(self, text: str) -> int:
            if error := next(lines, None):
                raise error
            return written.append(text) or len(text)

    monkeypatch.setattr(sys, "stderr", Log())
    server.say("lost")
    server.say("kept")
    assert "".join(written).endswith("kept\n")


@pytest.fixture
def handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_heeds_its_signals(number: signal.Signals, handlers: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    end = server.CommandEnd()
    end.heed_signals()
    handler: Any = signal.getsignal(number)
    handler(number, None)
    assert end.stop.is_set() and not end.by_itself


class Handled:
    """A thread in which a signal's handler sets `stop` before every line that it runs, those of libraries too."""

    def __init__(self, stop: server.Stop) -> None:
        self.stop, self.handled = stop, 0

    def ends(self, call: Callable[[], object]) -> bool:
        """Whether a call ends in such a thread."""
        thread = threading.Thread(target=self._call, args=[call], daemon=True)
        thread.start()
        thread.join(60)
        return not thread.is_alive()

    def _call(self, call: Callable[[], object]) -> None:
        sys.settrace(self._before_line)
        try:
            call()
        finally:
            sys.settrace(None)

    def _before_line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            sys.settrace(None)
            self.stop.set()
            self.handled += 1
            sys.settrace(self._before_line)
        return self._before_line


@pytest.mark.parametrize("method", ["set", "wait"])
def test_a_signal_in_the_middle_of_a_stop_waits_for_nothing(method: str) -> None:
    """As after a second Ctrl-C, or where a process and its group are both told to end."""
    stop = server.Stop()
    handled = Handled(stop)
    assert handled.ends(getattr(stop, method)) and handled.handled and stop.is_set()


def test_a_stop_wakes_up_who_waits_for_it_and_stays() -> None:
    stop = server.Stop()
    assert not stop.wait(0)
    threading.Timer(0.2, stop.set).start()
    assert stop.wait() and stop.wait(0) and stop.is_set()


def test_more_stops_than_the_pipe_holds_are_one() -> None:
    stop = server.Stop()
    for _ in range(70_000):
        stop.set()
    assert stop.wait()
