"""The first step of the unary endpoint refuses at once, and passes what the streaming endpoint let in."""

import json
import os
import time
from pathlib import Path

import pytest

from tests.fakes.pb_utils import FakeMetricFamily, FakePbUtils, FakeRequest
from tests.unit.wan_t2v.serving.resume.test_checkpoint_store import FIRST, KEY, ROOMY, kept
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.operate.load import load_of
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.request import Settings
from wan_t2v.serving.admission.ensemble_gate import EnsembleGate
from wan_t2v.serving.admission.estimate import DurationEstimator, Workload
from wan_t2v.serving.admission.queue import AdmissionLimits
from wan_t2v.serving.errors import OutOfTime, Overloaded
from wan_t2v.serving.python_backend.parameters import ModelParameters
from wan_t2v.serving.request_options import ADMITTED
from wan_t2v.serving.resume.checkpoint_store import Checkpoints
from wan_t2v.serving.resume.kept_steps import publish_folder

SETTINGS = Settings("x", "", 64, 64, 17, 10, 4.0, 3.0, 12.0, 7, 16, "mp4", "raw")


@pytest.fixture
def run(run_directory: Path) -> RunDirectory:
    opened = RunDirectory.of_server(run_directory, os.getppid())
    AdmissionLimits(1, 0).publish(opened)
    return opened


def endpoint() -> EnsembleGate:
    return EnsembleGate(FakePbUtils(), ModelParameters("prepare", Path(), {}))


def pass_through(endpoint: EnsembleGate, request: FakeRequest) -> None:
    with endpoint.admit(request) as pending:
        pending.settle(SETTINGS)


def ended(outcome: str) -> float:
    values = FakeMetricFamily.families["wan_t2v_generations_ended_total"].values
    return sum(value for labels, value in values.items() if outcome in labels)


def test_a_request_takes_a_place_and_the_next_is_refused(run: RunDirectory) -> None:
    unary = endpoint()
    pass_through(unary, FakeRequest())
    assert load_of(run).queued == 1
    with pytest.raises(Overloaded):
        pass_through(unary, FakeRequest())
    assert ended("refused_overloaded") == 1


def test_what_the_streaming_endpoint_let_in_takes_none_and_is_counted_there(run: RunDirectory) -> None:
    unary, request = endpoint(), FakeRequest(parameters=json.dumps({ADMITTED: run.key()}))
    pass_through(unary, request)
    pass_through(unary, request)
    assert load_of(run).queued == 0


@pytest.mark.parametrize("guess", ["", "x", 7, None])
def test_who_does_not_know_the_key_is_not_let_past(guess: object, run: RunDirectory) -> None:
    unary, request = endpoint(), FakeRequest(parameters=json.dumps({ADMITTED: guess}))
    pass_through(unary, request)
    assert load_of(run).queued == 1


def test_a_key_that_the_server_cannot_keep_is_refused_before_it_takes_a_place(run: RunDirectory) -> None:
    request = FakeRequest(parameters=json.dumps({"idempotency_key": KEY}))
    publish_folder(run, None)
    with pytest.raises(InvalidField, match="this server keeps no checkpoints"):
        pass_through(endpoint(), request)
    assert load_of(run).queued == 0 and ended("refused_invalid") == 1


def test_a_failure_after_it_gives_the_place_back(run: RunDirectory) -> None:
    with pytest.raises(ZeroDivisionError), endpoint().admit(FakeRequest()) as pending:
        pending.settle(SETTINGS)
        raise ZeroDivisionError
    assert load_of(run).queued == 0
    assert ended("failed") == 1


@pytest.mark.parametrize(("timeout_us", "seconds"), [(0, 100.0), (2_000_000, 2.0)])
def test_a_request_always_has_a_deadline(timeout_us: int, seconds: float, run: RunDirectory) -> None:
    """An ensemble never hears that its caller left."""
    unary = EnsembleGate(FakePbUtils(), ModelParameters("prepare", Path(), {"default_timeout_s": "100"}))
    before = time.monotonic()
    with unary.admit(FakeRequest(timeout_us=timeout_us)) as pending:
        generation = pending.settle(SETTINGS)
    assert generation.deadline is not None
    assert before + seconds <= generation.deadline <= time.monotonic() + seconds


def test_bad_fields_are_counted_as_such(run: RunDirectory) -> None:
    with pytest.raises(InvalidField), endpoint().admit(FakeRequest()):
        raise InvalidField("height", 17, "a multiple of 16")
    assert ended("refused_invalid") == 1


def test_parameters_that_make_no_sense_are_counted_as_such(run: RunDirectory) -> None:
    with pytest.raises(InvalidField), endpoint().admit(FakeRequest(parameters='{"queue_priority": 0}')):
        raise AssertionError("not reached")
    assert ended("refused_invalid") == 1


def test_a_deadline_counts_only_the_steps_that_no_checkpoint_has(run: RunDirectory, tmp_path: Path) -> None:
    DurationEstimator(run).record(Workload.of(SETTINGS), step_s=1.0, after_s=0.0)
    request = FakeRequest(parameters=json.dumps({"idempotency_key": KEY}), timeout_us=3_000_000)
    with pytest.raises(OutOfTime):
        pass_through(endpoint(), request)
    publish_folder(run, tmp_path / "kept")
    with Checkpoints(tmp_path / "kept", ROOMY).lock(KEY) as checkpoint:
        checkpoint.write(FIRST, kept(9))
    pass_through(endpoint(), request)
    assert load_of(run).queued == 1
