"""Which of the jobs that meet a dead process it is counted against."""

from wan_t2v_gateway.generation.process_deaths import ProcessDeaths


def deaths() -> tuple[list[float], ProcessDeaths]:
    """A clock that a test sets, and the deaths by it."""
    clock = [0.0]
    return clock, ProcessDeaths(now=lambda: clock[0])


def test_only_the_first_job_that_meets_a_dead_process_may_have_killed_it() -> None:
    _, processes = deaths()
    processes.record_step(began=1.0)
    assert [processes.record_death() for _ in range(3)] == [True, False, False]


def test_a_death_before_any_step_may_be_older_than_the_worker() -> None:
    _, processes = deaths()
    assert not processes.record_death()


def test_a_job_under_way_since_before_a_death_shows_nothing_of_the_dead_process() -> None:
    clock, processes = deaths()
    processes.record_step(began=1.0)
    clock[0] = 5.0
    assert processes.record_death()
    processes.record_step(began=1.0)
    assert not processes.record_death()


def test_a_job_that_kills_a_process_each_time_is_found_once_others_are_made_in_between() -> None:
    clock, processes = deaths()
    counted = []
    for at in (10.0, 20.0, 30.0):
        processes.record_step(began=at - 5.0)
        clock[0] = at
        counted.append(processes.record_death())
    assert counted == [True, True, True]
