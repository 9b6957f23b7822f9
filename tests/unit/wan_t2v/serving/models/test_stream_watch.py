"""The watch outlives what goes wrong for a moment."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.pb_utils import FakePbUtils
from tests.waiting import wait_until
from wan_t2v.contract import STREAM
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.serving.models import stream_watch
from wan_t2v.serving.models.stream_responses import ResponseStream
from wan_t2v.serving.models.stream_watch import StreamWatch
from wan_t2v.serving.python_backend.metrics import Metrics


class Beats:
    """A stream of which the test only sees how often it was asked for a heartbeat."""

    def __init__(self, error: Exception | None = None) -> None:
        self.count, self.error = 0, error

    def heartbeat(self) -> None:
        self.count += 1
        if self.error:
            raise self.error


@pytest.fixture
def watch(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamWatch]:
    monkeypatch.setattr(stream_watch, "LOOK_S", 0.02)
    pb_utils = FakePbUtils()
    metrics = Metrics(pb_utils, endpoint=STREAM)
    watching = StreamWatch(pb_utils, RunDirectory.of_server(run_directory, os.getpid()), metrics)
    yield watching
    watching.close()
    metrics.close()


def watched(watch: StreamWatch, beats: Any) -> Beats:
    stream: ResponseStream = beats
    watch.add(stream)
    return beats


def test_heartbeats_go_on_while_the_run_directory_is_away(watch: StreamWatch, run_directory: Path) -> None:
    beats, away = watched(watch, Beats()), run_directory.with_name("away")
    wait_until(lambda: beats.count > 0)
    run_directory.rename(away)
    before = beats.count
    wait_until(lambda: beats.count > before + 2)
    away.rename(run_directory)
    before = beats.count
    wait_until(lambda: beats.count > before + 2)


@pytest.mark.parametrize("error", [OSError("no descriptors"), FakePbUtils.TritonModelException("has left"), KeyError()])
def test_a_stream_that_fails_costs_no_other_its_heartbeats(error: Exception, watch: StreamWatch) -> None:
    failing, other = watched(watch, Beats(error)), watched(watch, Beats())
    wait_until(lambda: failing.count > 2 and other.count > 2)


def test_a_stream_that_ended_is_asked_no_more(watch: StreamWatch) -> None:
    ended, other = watched(watch, Beats()), watched(watch, Beats())
    wait_until(lambda: ended.count > 0)
    watch.discard(ended)  # type: ignore[arg-type]
    wait_until(lambda: other.count > ended.count + 3)
