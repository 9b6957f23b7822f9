"""What a request may say of itself to the queue."""

import json

import pytest

from tests.fakes.pb_utils import FakeRequest
from wan_t2v.request import InvalidField
from wan_t2v.serving.admission.estimate import Workload
from wan_t2v.serving.admission.options import QueueOptions

WORK = Workload(64, 64, 17, 10, guided=True)


def test_it_waits_for_ever_in_the_middle_if_it_says_nothing() -> None:
    assert QueueOptions.from_triton(FakeRequest(), WORK) == QueueOptions(WORK, None, 5)


@pytest.mark.parametrize(
    "request_", [FakeRequest(timeout_us=2_000_000), FakeRequest(parameters=json.dumps({"timeout": 2_000_000}))]
)
def test_tritons_timeout_is_the_deadline_over_grpc_and_over_http(request_: FakeRequest) -> None:
    found = QueueOptions.from_triton(request_, WORK)
    assert found.deadline is not None
    assert not found.is_late(found.deadline - 1.9) and found.is_late(found.deadline)


def test_a_priority_is_read() -> None:
    assert QueueOptions.from_triton(FakeRequest(parameters='{"queue_priority": 1}'), WORK).priority == 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"queue_priority": 0}, "queue_priority: got 0; accepted: an integer from 1 to 9"),
        ({"queue_priority": 10}, "queue_priority: got 10"),
        ({"queue_priority": "high"}, "queue_priority: got high"),
        ({"queue_priority": True}, "queue_priority: got True"),
        ({"timeout": -5}, "timeout: got -5; accepted: an integer from 1 up"),
        ({"timeout": 0.5}, "timeout: got 0.5"),
    ],
)
def test_what_makes_no_sense_is_refused(parameters: dict, message: str) -> None:
    with pytest.raises(InvalidField, match=message):
        QueueOptions.from_triton(FakeRequest(parameters=json.dumps(parameters)), WORK)
