from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.load.traffic import Traffic, mix_from_text, plan_requests, rate_for
from wan_t2v.shapes import VideoShape

SMALL, WIDE = VideoShape(17, 64, 64), VideoShape(17, 96, 96)
TRAFFIC = Traffic(4000, rate_per_s=2.0, mix={SMALL: 3, WIDE: 1}, steps=10, cancel_ratio=0.25, seed=5)


def test_the_same_seed_gives_the_same_traffic_and_another_one_another() -> None:
    assert plan_requests(TRAFFIC, ["a"]) == plan_requests(TRAFFIC, ["a"])
    assert plan_requests(TRAFFIC, ["a"]) != plan_requests(replace(TRAFFIC, seed=6), ["a"])


def test_arrivals_are_a_poisson_process() -> None:
    """Waits are exponential: their mean is 1 / rate, and so is their standard deviation."""
    arrivals = [request.arrives_s for request in plan_requests(TRAFFIC, ["a"])]
    waits = [after - before for before, after in zip([0.0, *arrivals], arrivals, strict=False)]
    mean = sum(waits) / len(waits)
    deviation = (sum((wait - mean) ** 2 for wait in waits) / len(waits)) ** 0.5
    assert min(waits) > 0
    assert mean == pytest.approx(0.5, rel=0.06)  # three standard errors of 4000 waits are 5 %
    assert deviation == pytest.approx(0.5, rel=0.1)


def test_sizes_come_by_their_weights_and_callers_leave_by_the_ratio_before_the_last_step() -> None:
    planned = plan_requests(TRAFFIC, ["a", "b"])
    sizes = Counter(request.size for request in planned)
    leaving = [request.leaves_after for request in planned if request.leaves_after is not None]
    assert sizes[SMALL] / len(planned) == pytest.approx(0.75, abs=0.03)
    assert len(leaving) / len(planned) == pytest.approx(0.25, abs=0.03)
    assert set(leaving) == set(range(1, 10))
    assert [request.prompt for request in planned[:3]] == ["a", "b", "a"]
    assert not any(r.leaves_after for r in plan_requests(replace(TRAFFIC, cancel_ratio=0.0), ["a"]))


def test_a_rate_keeps_the_server_busy_as_long_as_asked() -> None:
    seconds = {SMALL: 1.0, WIDE: 3.0}  # 1.5 s in the mean
    assert rate_for(0.6, seconds, replace(TRAFFIC, cancel_ratio=0.0)) == pytest.approx(0.4)
    assert rate_for(0.6, seconds, replace(TRAFFIC, cancel_ratio=0.5)) == pytest.approx(0.4 / 0.75)


def test_a_mix_is_read_as_it_is_written_elsewhere_height_first() -> None:
    assert mix_from_text("64x96x17=3, 480x832x81") == {VideoShape(17, 64, 96): 3.0, VideoShape(81, 480, 832): 1.0}


@pytest.mark.parametrize("text", ["", "64x64", "64x64x17=", "64x64x17=0", "64x64x17,", "axbxc"])
def test_a_mix_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="64x64x17=3"):
        mix_from_text(text)
