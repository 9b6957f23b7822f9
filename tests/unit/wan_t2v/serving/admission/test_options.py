"""A request as the queue sees it."""

import time

from wan_t2v.serving.admission.estimate import Workload
from wan_t2v.serving.admission.options import QueueOptions
from wan_t2v.serving.request_options import RequestOptions

WORK = Workload(64, 64, 17, 10, guided=True)


def test_without_a_timeout_there_is_no_deadline_or_the_default_one() -> None:
    assert QueueOptions.of(RequestOptions(), WORK) == QueueOptions(WORK, None, 5)
    before = time.monotonic()
    deadline = QueueOptions.of(RequestOptions(), WORK, default_timeout_s=100.0).deadline
    assert deadline is not None and before + 100 <= deadline <= time.monotonic() + 100


def test_a_timeout_is_a_deadline_from_now_on_whatever_the_default() -> None:
    options = QueueOptions.of(RequestOptions(timeout_s=2.0, priority=1), WORK, default_timeout_s=100.0)
    assert options.deadline is not None and options.priority == 1
    assert not options.is_late(options.deadline - 1.9) and options.is_late(options.deadline)
