from pathlib import Path

import pytest

from benchmarks.harness.intervals import covered_ns, gaps_ns, read_intervals


@pytest.mark.parametrize(
    ("intervals", "covered"),
    [
        ([], 0),
        ([(10, 20), (30, 40)], 20),
        ([(10, 30), (20, 40)], 30),
        ([(30, 40), (10, 50)], 40),
        ([(-50, 10), (90, 500)], 20),
    ],
)
def test_passes_that_overlap_count_once_and_only_within_the_span(
    intervals: list[tuple[int, int]], covered: int
) -> None:
    assert covered_ns(intervals, (0, 100)) == covered


def test_gaps_come_in_order_and_the_last_one_ends_with_the_span() -> None:
    assert gaps_ns([(30, 40), (10, 20), (15, 25)], (0, 100)) == [10, 5, 60]
    assert gaps_ns([(-5, 200)], (0, 100)) == [0]


def test_engines_write_down_when_they_ran(tmp_path: Path) -> None:
    from wan_t2v.engines.timed import TimedEngine

    engine = TimedEngine(lambda inputs, outputs=None: {"y": 1}, tmp_path / "expert-1.txt")
    assert [engine({}), engine({})] == [{"y": 1}] * 2
    (first, second) = read_intervals(tmp_path)
    assert first[0] <= first[1] <= second[0] <= second[1]
