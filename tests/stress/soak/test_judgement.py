"""A soak's judgement finds leaks and answers that are lost, doubled or wrong, and ignores noise."""

import random

import pytest

from tests.stress.faults.footprint import Allowance, Footprint
from tests.stress.soak.endings import Ending
from tests.stress.soak.flatness import judged

BASE = 200.0


def noisy(seed: int, count: int = 120) -> list[float]:
    draw = random.Random(seed)
    return [BASE + draw.gauss(0, 5) + (60 if draw.random() < 0.1 else 0) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_spikes_are_flat_and_a_slow_rise_in_them_is_not(seed: int) -> None:
    assert judged("memory", noisy(seed), allowed=16).is_flat
    rising = [value + 60 * index / 120 for index, value in enumerate(noisy(seed))]
    assert not judged("memory", rising, allowed=16).is_flat


def test_growth_in_the_first_quarter_is_no_leak_and_a_fall_is_none() -> None:
    assert judged("memory", [100 + min(index, 20) for index in range(80)], allowed=0).is_flat
    assert judged("memory", [200.0 - index for index in range(80)], allowed=0).is_flat


def test_a_leak_that_begins_late_is_found_and_told() -> None:
    found = judged("open files", [50] * 60 + [50 + index for index in range(60)], allowed=10)
    assert found.fault == "open files is not flat: 50 in the second quarter, 94.5 in the last, allowed are 10 more"


def test_the_share_counts_where_it_is_more() -> None:
    assert judged("memory", [1000.0] * 20 + [1040.0] * 20, allowed=16, allowed_share=0.05).is_flat
    assert not judged("memory", [100.0] * 20 + [140.0] * 20, allowed=16, allowed_share=0.05).is_flat


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="7 samples"):
        judged("memory", [1.0] * 7, allowed=0)


VIDEO = {"kind": "video", "door": "gRPC stream", "name": "small", "expected": "aa"}
FULL = "Unavailable: 1 generations are under way (limit 1) and 16 wait (limit 16); try again later"


@pytest.mark.parametrize(
    ("ending", "fault"),
    [
        (Ending(**VIDEO, answers=("aa",)), None),
        (Ending(**VIDEO, error=FULL), None),
        (Ending(**VIDEO, answers=("aa", "aa")), "answered 2 times"),
        (Ending(**VIDEO), "lost: neither"),
        (Ending(**VIDEO, answers=("bb",)), "other bytes"),
        (Ending(**VIDEO, answers=("aa",), error="INTERNAL: "), "answered, and then failed"),
        (Ending(**VIDEO, error="Failed: INTERNAL: no"), "ended in Failed: INTERNAL"),
        (Ending(**VIDEO, error="Failed: CANCELLED: cancelled after step 3 of 4"), "ended in Failed: CANCELLED"),
        (Ending(**{**VIDEO, "kind": "deadline"}, error="Failed: CANCELLED: cancelled after step 3 of 4"), None),
        (Ending("cancelled", "gRPC stream", "after 3 steps", left=True), None),
        (Ending("cancelled", "gRPC stream", "after 3 steps", left=True, answers=("aa",)), "answered, though"),
        (Ending("bad", "HTTP unary", "no steps", error="refused fairly: 400: steps: got 0"), None),
        (Ending("bad", "HTTP unary", "no steps", error=": answered"), "ended in : answered"),
        (Ending("left", "HTTP unary", "after 0.5 s", left=True), None),
        (Ending("inner", "denoiser", "settings of another run", error="refused fairly: INVALID_ARGUMENT: "), None),
        (Ending("inner", "denoiser", "settings of another run", error=": answered"), "ended in : answered"),
        (Ending("growing", "gRPC text_to_video", "1024 wide", error="INTERNAL: no memory"), "ended in INTERNAL"),
    ],
)
def test_an_ending_is_judged(ending: Ending, fault: str | None) -> None:
    assert (ending.fault is None) == (fault is None)
    assert fault is None or fault in str(ending.fault)


def footprint(**changed: object) -> Footprint:
    usual = {"processes": {"denoiser": 2}, "memory_mib": {"denoiser": 400.0}, "open_files": {"denoiser": 60},
             "regions": 2, "regions_mib": 3.0}  # fmt: skip
    return Footprint(**{**usual, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, []),
        ({"memory_mib": {"denoiser": 499.0}, "open_files": {"denoiser": 64}}, []),
        ({"processes": {"denoiser": 1}}, ["processes are denoiser 1 (was 2)"]),
        ({"memory_mib": {"denoiser": 501.0}}, ["memory of denoiser is 501 MiB, it was 400"]),
        ({"open_files": {"denoiser": 65}}, ["open files are denoiser 65 (was 60)"]),
        ({"regions": 3}, ["3 regions of shared memory, there were 2"]),
    ],
)
def test_what_grew_is_told(changed: dict, told: list[str]) -> None:
    allowance = Allowance(memory_mib=32, memory_share=0.25, open_files=4, regions=0)
    assert footprint(**changed).grown_since(footprint(), allowance) == told
