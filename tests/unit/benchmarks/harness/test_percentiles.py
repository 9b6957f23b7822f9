import pytest

from benchmarks.harness.percentiles import percentile, summary


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, p) for p in (20, 21, 50, 90, 100)] == [1.0, 2.0, 3.0, 5.0, 5.0]
    assert percentile(list(range(1, 51)), 90) == 45  # 45 of 50 are not above it


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_a_percentile_of_nothing_or_outside_the_range_is_refused(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, percent)


def test_a_summary_says_how_many_values_it_stands_for() -> None:
    assert summary([0.1, 0.3, 0.2]) == {"count": 3, "mean": 0.2, "p50": 0.2, "p90": 0.3, "p99": 0.3, "max": 0.3}
    assert summary([]) is None
