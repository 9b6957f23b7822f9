import pytest

from benchmarks.baselines.comparison import figures
from benchmarks.latency.endpoints import WAYS, endpoint_figures, rotate


def test_each_way_is_first_second_and_third_equally_often() -> None:
    orders = [rotate(WAYS, number) for number in range(3)]
    assert all(sorted(order) == sorted(WAYS) for order in orders)
    assert all(len(set(column)) == 3 for column in zip(*orders, strict=True))


def test_a_machine_that_slows_down_does_not_change_the_ratios() -> None:
    """Ratios are taken round by round and not of the medians."""
    speeds = (1.0, 1.0, 1.5, 2.0, 8.0)
    seconds = {
        "unary": [3.0 * speed for speed in speeds],
        "stream": [3.03 * speed for speed in speeds],
        "previews": [3.06 * speed for speed in speeds],
    }
    seconds["stream"][2] *= 5  # a hiccup of one round
    found = endpoint_figures(seconds)
    assert found["stream_over_unary"] == pytest.approx(1.01)
    assert found["previews_over_unary"] == pytest.approx(1.02)
    assert found["unary_s"] == 4.5


def test_throughput_of_four_at_once_and_the_ratio_to_ours() -> None:
    alone = {"ours": [2.0, 4.0], "fastapi": [6.0, 12.0]}
    together = {"ours": [8.0], "fastapi": [24.0]}
    assert figures(alone, together) == {
        "ours": {"alone_s": 3.0, "over_ours": 1.0, "four_at_once_videos_per_s": 0.5},
        "fastapi": {"alone_s": 9.0, "over_ours": 3.0, "four_at_once_videos_per_s": 0.1667},
    }
