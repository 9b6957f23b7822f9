import numpy as np

from benchmarks.latency.precisions import pass_figures


def test_speed_and_error_are_against_the_first_precision() -> None:
    """The speed is the median of the rounds' ratios: a machine that is slower in one round is slower for both."""
    velocities = {"fp32": np.array([3.0, 4.0]), "int8": np.array([3.0, 4.5])}
    assert pass_figures({"fp32": [10.0, 40.0, 12.0], "int8": [5.0, 20.0, 4.0]}, velocities) == {
        "fp32": {"ms": 12.0, "speed": 1.0, "error": 0.0},
        "int8": {"ms": 5.0, "speed": 2.0, "error": 0.1},
    }
