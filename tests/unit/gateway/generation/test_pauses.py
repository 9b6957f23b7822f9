"""How long a worker begins no other job after a refusal."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from wan_t2v_client import Unavailable
from wan_t2v_gateway.generation import pauses
from wan_t2v_gateway.generation.failures import refuses_all
from wan_t2v_gateway.generation.pauses import _HELD_ATTEMPTS, _SHORT_HOLD_S, Pauses, Refused
from wan_t2v_gateway.queue.tasks import GENERATE, Retries
from wan_t2v_gateway.settings import Settings
from wan_t2v_gateway.storage.store import FileRefused, StorageUnavailable

from tests.fakes.scripted_server import BUSY
from tests.unit.gateway.generation.server_errors import as_client_error
from wan_t2v.serving.errors import AlreadyRunning, Draining
from wan_t2v.serving.resume.checkpoint_store import Checkpoints, Limits

DEAD = "Stub process 'prepare_0_0' is not healthy."
LATER = 7  # an attempt whose pause is the longest one


def video(attempt: int) -> Any:
    return SimpleNamespace(attempt=attempt, outage_s=0.0)


def refused(attempt: int, error: Unavailable | StorageUnavailable) -> Refused:
    return Pauses(Settings()).try_again(video(attempt), error, lost_s=0.0)


@pytest.mark.parametrize("error", [Unavailable(BUSY), Unavailable(str(Draining())), StorageUnavailable("away")])
def test_while_every_job_is_refused_none_overtakes(error: Unavailable | StorageUnavailable) -> None:
    for attempt in range(1, LATER + 1):
        pause = refused(attempt, error)
        assert pause.held_s == pause.seconds
    assert pause.seconds > 10 * _SHORT_HOLD_S


@pytest.mark.parametrize("error", [Unavailable(DEAD), FileRefused("too large")])
def test_a_refusal_that_may_be_the_jobs_fault_holds_the_others_for_a_short_time_after_some_attempts(
    error: Unavailable | StorageUnavailable,
) -> None:
    pauses = [refused(attempt, error) for attempt in range(1, LATER + 1)]
    held = [pause.held_s for pause in pauses]
    assert held[:_HELD_ATTEMPTS] == [pause.seconds for pause in pauses[:_HELD_ATTEMPTS]] == [1.0, 2.0, 4.0]
    assert set(held[_HELD_ATTEMPTS:]) == {_SHORT_HOLD_S}
    assert pauses[-1].seconds == 60.0


def test_a_server_that_names_a_long_time_is_asked_every_minute() -> None:
    """Else a caller who leaves a long video would leave its place empty for as long."""
    pause = refused(1, Unavailable(BUSY, retry_after_s=1800.0))
    assert (pause.seconds, pause.held_s) == (60.0, 60.0)


def test_a_job_whose_earlier_try_still_runs_holds_no_other(tmp_path: Path) -> None:
    """As the server says it: its checkpoints are asked."""
    checkpoints = Checkpoints(tmp_path, Limits(age_s=3600.0, total_bytes=10**9))
    with checkpoints.lock("x"), pytest.raises(AlreadyRunning) as running, checkpoints.lock("x"):
        pytest.fail("two work on one generation")
    error = as_client_error(running.value)
    assert isinstance(error, Unavailable) and not refuses_all(error)
    pause = refused(LATER, error)
    assert (pause.seconds, pause.held_s) == (1.0, 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that a test sets."""
    seconds = [1000.0]
    monkeypatch.setattr(pauses, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    return seconds


def test_no_other_job_begins_while_one_is_put_back_nor_in_its_pause_after_that(clock: list[float]) -> None:
    worker, pause = Pauses(Settings()), refused(3, Unavailable(BUSY))
    with worker.after_return(pause):
        clock[0] += 100.0  # a slow database
        assert not worker.are_over()
    clock[0] += pause.seconds
    assert not worker.are_over()  # the job may be fetched again, and goes first
    clock[0] += 1.0
    assert worker.are_over()


def test_the_queue_counts_the_pause_from_the_same_time(clock: list[float]) -> None:
    worker, pause = Pauses(Settings()), refused(3, Unavailable(BUSY))
    pause.at = datetime.min.replace(tzinfo=UTC)
    before = datetime.now(UTC)
    with worker.after_return(pause):
        pass
    assert pause.at >= before + timedelta(seconds=pause.seconds)
    decision = Retries().get_retry_decision(exception=pause, job=SimpleNamespace(task_name=GENERATE))  # type: ignore[arg-type]
    assert decision is not None and decision.retry_at == pause.at


def test_when_the_server_has_room_again_others_may_begin_at_once(clock: list[float]) -> None:
    worker = Pauses(Settings())
    with worker.after_return(refused(3, Unavailable(BUSY))):
        pass
    assert not worker.are_over()
    worker.end()
    assert worker.are_over()
