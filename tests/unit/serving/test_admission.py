"""How many run, how many wait, who is next, and what is told to those who must go."""

import threading
from collections.abc import Callable

import pytest

from wan_t2v.cancellation import Cancelled
from wan_t2v.serving.admission import Admission, Overloaded, Place

STAYS: Callable[[], bool] = lambda: False  # noqa: E731 - the name says what the caller does


class Held:
    """A generation in a thread of its own that runs until it is released."""

    def __init__(self, admission: Admission, place: Place, *, is_cancelled: Callable[[], bool] = STAYS) -> None:
        self.running, self.released, self.error = threading.Event(), threading.Event(), None
        self._thread = threading.Thread(target=self._run, args=(admission, place, is_cancelled), daemon=True)
        self._thread.start()

    def _run(self, admission: Admission, place: Place, is_cancelled: Callable[[], bool]) -> None:
        try:
            with admission.turn(place, is_cancelled):
                self.running.set()
                assert self.released.wait(10)
        except Cancelled as error:
            self.error = error

    def end(self) -> None:
        self.released.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


def test_no_more_than_the_limit_run_and_the_next_in_line_follows() -> None:
    admission = Admission(1, max_queued=1)
    first = Held(admission, admission.enter())
    assert first.running.wait(5)
    second = Held(admission, admission.enter())
    assert not second.running.wait(0.2)
    assert (admission.load.in_flight, admission.load.queued) == (1, 1)
    first.end()
    assert second.running.wait(5)
    second.end()
    assert (admission.load.in_flight, admission.load.queued) == (0, 0)


def test_one_too_many_is_refused_at_once_with_the_depth_and_when_to_try_again() -> None:
    times = iter(range(0, 1000, 10))  # a generation takes ten seconds on this clock
    admission = Admission(2, max_queued=0, now=lambda: float(next(times)))
    with admission.turn(admission.enter(), STAYS):
        pass
    holders = [Held(admission, admission.enter()) for _ in range(2)]
    assert all(holder.running.wait(5) for holder in holders)
    with pytest.raises(Overloaded, match=r"2 generations are under way \(limit 2\) and 0 wait .* in about \d+ s"):
        admission.enter()
    for holder in holders:
        holder.end()


def test_a_lower_priority_number_goes_first_and_equals_in_order() -> None:
    admission = Admission(1, max_queued=3)
    running = Held(admission, admission.enter())
    assert running.running.wait(5)
    late = [Held(admission, admission.enter(priority)) for priority in (1, 1, 0)]
    running.end()
    assert late[2].running.wait(5) and not late[0].running.is_set() and not late[1].running.is_set()
    late[2].end()
    assert late[0].running.wait(5) and not late[1].running.is_set()
    late[0].end()
    late[1].end()


def test_a_caller_who_leaves_the_queue_makes_room() -> None:
    admission = Admission(1, max_queued=1)
    running = Held(admission, admission.enter())
    assert running.running.wait(5)
    gone = Held(admission, admission.enter(), is_cancelled=lambda: True)
    gone.end()
    assert isinstance(gone.error, Cancelled)
    admission.enter()
    running.end()


def test_a_generation_that_fails_gives_its_place_back() -> None:
    admission = Admission(1, max_queued=0)
    with pytest.raises(ZeroDivisionError), admission.turn(admission.enter(), STAYS):
        raise ZeroDivisionError
    admission.enter()
