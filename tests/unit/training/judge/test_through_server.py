import pytest

from training.judge.adherence import Adherence, Scores
from training.judge.through_server import half_width, line_of


def adherence(colour: float) -> Adherence:
    scores = Scores(colour, motion=0.9, shape=0.8, all_three=0.7, prompts=54)
    return Adherence(scores, chance=Scores(0.1, motion=0.1, shape=0.25, all_three=0.0, prompts=54))


def test_one_seed_has_the_line_that_it_had() -> None:
    assert line_of([adherence(0.9)]) == adherence(0.9).as_line()


def test_several_seeds_have_a_mean_an_interval_and_each_score() -> None:
    line = line_of([adherence(colour) for colour in (0.9, 1.0, 0.8)])
    assert (line["colour"], line["prompts"], line["chance_shape"]) == (0.9, 54, 0.25)
    assert line["scores_of_seeds"]["colour"] == [0.9, 1.0, 0.8]  # type: ignore[index]
    assert line["intervals"]["colour"] == pytest.approx(4.303 * 0.1 / 3**0.5, abs=1e-4)  # type: ignore[index]
    assert line["intervals"]["motion"] == 0.0  # type: ignore[index]


def test_five_values_take_students_t_of_four_degrees() -> None:
    assert half_width([0.0, 0.0, 0.0, 0.0, 1.0]) == pytest.approx(2.776 * 0.2, abs=1e-3)
