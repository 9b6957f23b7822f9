"""What a generation is likely to take, from what was measured."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.serving.admission.estimate import (
    FILE,
    MOST_PROFILES,
    MOST_SIZES,
    SHARES_FILE,
    SMOOTHING,
    VALID_S,
    DurationEstimator,
    Workload,
)
from wan_t2v.step_profiles.profile import StepProfile

SMALL = Workload(64, 64, 16, 10, guided=True)


@pytest.fixture
def run(run_directory: Path) -> RunDirectory:
    return RunDirectory.of_server(run_directory, os.getpid())


def test_steps_and_what_follows_them_are_added(run: RunDirectory) -> None:
    estimator = DurationEstimator(run)
    assert estimator.estimate_s(SMALL) is None
    estimator.record(SMALL, step_s=2.0, after_s=3.0)
    assert estimator.estimate_s(SMALL) == pytest.approx(23.0)
    assert DurationEstimator(run).estimate_s(SMALL) == pytest.approx(23.0), "another process reads the same"


def test_other_sizes_and_fewer_passes_are_scaled_from_the_nearest_that_was_measured(run: RunDirectory) -> None:
    estimator = DurationEstimator(run)
    estimator.record(SMALL, step_s=2.0, after_s=3.0)
    estimator.record(Workload(640, 640, 16, 10, guided=True), step_s=1000.0, after_s=0.0)
    assert estimator.estimate_s(Workload(128, 64, 16, 5, guided=True)) == pytest.approx(2 * (5 * 2.0 + 3.0))
    assert estimator.estimate_s(Workload(64, 64, 16, 10, guided=False)) == pytest.approx(10 * 1.0 + 3.0)


def test_newer_measurements_weigh_and_a_endpoint_that_sees_no_decoding_does_not_forget_it(run: RunDirectory) -> None:
    estimator = DurationEstimator(run)
    estimator.record(SMALL, step_s=1.0, after_s=4.0)
    estimator.record(SMALL, step_s=2.0, after_s=None)
    assert estimator.estimate_s(SMALL) == pytest.approx(10 * 1.3 + 4.0)


def test_old_measurements_turn_nobody_away(run: RunDirectory) -> None:
    clock = [0.0]
    estimator = DurationEstimator(run, now=lambda: clock[0])
    estimator.record(SMALL, step_s=1000.0, after_s=0.0)
    clock[0] = VALID_S + 1
    assert estimator.estimate_s(SMALL) is None


def test_only_the_newest_sizes_are_kept_and_old_ones_are_not(run: RunDirectory) -> None:
    now = [0.0]
    estimator = DurationEstimator(run, now=lambda: now[0])
    for number in range(2 * MOST_SIZES):
        now[0] += 1.0
        estimator.record(replace(SMALL, width=16 + number), step_s=1.0, after_s=None)
    kept = run.read_json(FILE)
    assert kept is not None and len(kept) == MOST_SIZES
    assert {entry["at"] for entry in kept.values()} == {float(at) for at in range(MOST_SIZES + 1, 2 * MOST_SIZES + 1)}
    now[0] += VALID_S
    estimator.record(SMALL, step_s=1.0, after_s=None)
    assert len(run.read_json(FILE) or {}) == 1


@pytest.mark.parametrize(
    "entry",
    [None, 7, "x", [], {}, {"size": 1}, {"size": 0, "passes": 1, "step_s": 1, "after_s": 1, "at": 1}]
    + [{"size": "x", "passes": 1, "step_s": 1, "after_s": 1, "at": 1}]
    + [{"size": 1, "passes": 1, "step_s": float("nan"), "after_s": 1, "at": 1}],
)
def test_what_is_damaged_is_left_out(entry: object, run: RunDirectory) -> None:
    run.write_json(FILE, {"64x64x16 2": entry})
    estimator = DurationEstimator(run)
    assert estimator.estimate_s(SMALL) is None
    estimator.record(SMALL, step_s=2.0, after_s=3.0)
    assert estimator.estimate_s(SMALL) == pytest.approx(23.0)


CACHED = replace(SMALL, profile=StepProfile(step_cache=0.1, warm_up=0.2))
FAST = StepProfile(step_cache=0.1, longest_reuse=4)


def test_a_profile_is_expected_to_compute_what_it_did_lately(run: RunDirectory) -> None:
    estimator = DurationEstimator(run)
    estimator.record(SMALL, step_s=2.0, after_s=3.0)
    assert estimator.estimate_s(CACHED) == pytest.approx(2.0 * (10 - 2) + 3.0), "nothing measured: half of the four"
    estimator.record_passes(CACHED, passes=14, reused_steps=3)
    assert estimator.estimate_s(CACHED) == pytest.approx(2.0 * (10 - 3) + 3.0)
    estimator.record_passes(CACHED, passes=20, reused_steps=0)
    assert estimator.estimate_s(CACHED) == pytest.approx(2.0 * (10 - 3 * (1.0 - SMOOTHING)) + 3.0)
    other = replace(CACHED, profile=StepProfile(step_cache=0.2))
    assert estimator.estimate_s(other) == pytest.approx(2.0 * (10 - 2) + 3.0), "another profile was not measured"
    estimator.record_passes(SMALL, passes=5, reused_steps=0)
    assert estimator.estimate_s(SMALL) == pytest.approx(23.0), "exact ones compute all"


def test_a_profile_measured_in_few_steps_is_known_in_many_and_the_other_way_round(run: RunDirectory) -> None:
    """`fast` computed 18 of 32 passes in 16 steps. Then 112 of 200 were expected of it, and 100 s refused as too few."""
    computed = {16: 18, 40: 34, 100: 78}  # passes of `fast`, by steps, as wan-mini needs them
    fast = {steps: replace(SMALL, num_inference_steps=steps, profile=FAST) for steps in computed}
    for measured in (16, 100):
        estimator = DurationEstimator(run)
        run.write_json(SHARES_FILE, {})
        estimator.record(SMALL, step_s=2.0, after_s=0.0)
        estimator.record_passes(
            fast[measured], passes=computed[measured], reused_steps=measured - computed[measured] // 2
        )
        for steps, passes in computed.items():
            assert estimator.estimate_s(fast[steps]) == pytest.approx(passes * 1.0, rel=0.07), (measured, steps)


def test_skipped_negative_passes_and_a_start_from_a_checkpoint_count_in_the_estimate(run: RunDirectory) -> None:
    estimator = DurationEstimator(run)
    estimator.record(SMALL, step_s=2.0, after_s=0.0)
    skips = replace(CACHED, num_inference_steps=40, profile=StepProfile(step_cache=0.1, guidance_skip=0.5))
    assert estimator.estimate_s(skips) == pytest.approx(2.0 * (40 - 14) * (1 - 0.5 / 4))
    assert estimator.estimate_s(replace(skips, guided=False)) == pytest.approx(1.0 * (40 - 14))
    estimator.record_passes(skips, passes=46, reused_steps=14)
    assert estimator.estimate_s(skips) == pytest.approx(46.0)
    assert estimator.estimate_s(skips, steps_done=20) == pytest.approx(2.0 * (20 - 16 / 2) * 46 / 52)
    assert estimator.estimate_s(skips, steps_done=40) == 0.0
    assert estimator.estimate_s(SMALL, steps_done=4) == pytest.approx(2.0 * 6)


def test_only_the_newest_profiles_are_kept_and_damaged_shares_are_not_read(run: RunDirectory) -> None:
    estimator = DurationEstimator(run)
    estimator.record(SMALL, step_s=2.0, after_s=0.0)
    for number in range(MOST_PROFILES + 1):
        work = replace(SMALL, profile=StepProfile(step_cache=(number + 1) / 100))
        estimator.record_passes(work, passes=10, reused_steps=0)
    shares = run.read_json(SHARES_FILE) or {}
    assert len(shares) == MOST_PROFILES and not any("step_cache=0.01," in name for name in shares)
    for damaged in ("much", 0.5, {"reused": 0.5}, {"reused": "x", "passes": 1.0}, {"reused": 0.5, "passes": 0.0}):
        run.write_json(SHARES_FILE, {CACHED.profile_name: damaged})
        assert estimator.estimate_s(CACHED) == pytest.approx(2.0 * (10 - 2))
