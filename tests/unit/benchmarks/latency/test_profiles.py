"""The figures of step profiles against diffusers."""

from benchmarks.latency.profiles import profile_figures


def test_a_ratio_is_the_median_of_the_rounds_and_not_that_of_the_medians() -> None:
    """A machine that is slower in one round is slower for both."""
    seconds = {"diffusers": [2.0, 8.0, 4.0], "exact": [1.0, 2.0, 2.0], "fast": [0.5, 4.0, 1.0]}
    assert profile_figures(seconds, {"exact": 80, "fast": 34}) == {
        "diffusers_s": 4.0,
        "profiles": {
            "exact": {"seconds": 2.0, "ratio": 0.5, "passes": 80},
            "fast": {"seconds": 1.0, "ratio": 0.25, "passes": 34},
        },
    }
