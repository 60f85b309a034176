"""The words of a verdict."""

import pytest

from helpers.measure.rates import Rate, Score
from helpers.measure.verdicts import detector_verdict, gain_verdict, standing, verdict, words


@pytest.mark.parametrize(
    "paper, ours, adaptive, expected",
    [
        (2.0, Rate(20, 1000), None, "as claimed"),
        (2.0, Rate(200, 1000), None, "worse than claimed"),
        (60.0, Rate(200, 1000), None, "better than claimed"),
        (2.0, Rate(20, 1000), Rate(900, 1000), "as claimed, broken"),
        (2.0, Rate(20, 1000), Rate(899, 1000), "as claimed, weakened"),
        (2.0, Rate(20, 1000), Rate(60, 1000), "as claimed, stands"),
        (70.0, Rate(700, 1000), Rate(701, 1000), "as claimed, weakened"),  # no worse, but not standing either
    ],
)
def test_verdict_words(paper, ours, adaptive, expected):
    assert verdict(paper, ours, adaptive) == expected


def test_without_a_published_number_the_adaptive_one_alone_is_judged():
    assert verdict(None, Rate(20, 1000), Rate(900, 1000)) == "broken"
    assert verdict(None, Rate(20, 1000)) == ""
    assert words("accuracy", None, Rate(980, 1000), Rate(100, 1000), comparable=False) == "broken"
    assert words("roc_auc", None, Score(80.0, (75.0, 85.0), 200), None, comparable=True) == ""


@pytest.mark.parametrize(
    "errors, word", [(100, "stands"), (499, "stands"), (500, "weakened"), (899, "weakened"), (900, "broken")]
)
def test_standing_goes_by_the_errors(errors, word):
    assert standing(Rate(errors, 1000)) == word


def test_verdict_allows_for_few_images():
    assert verdict(2.0, Rate(1, 10)) == "as claimed"  # 10 %, but of ten images


def test_a_quick_profile_is_not_held_against_the_paper():
    assert verdict(2.0, Rate(90, 100), comparable=False) == "not comparable"
    assert verdict(2.0, Rate(2, 100), Rate(100, 100), comparable=False) == "not comparable, broken"


@pytest.mark.parametrize(
    "paper, expected",
    [(50.0, "as published"), (65.0, "lower than published"), (35.0, "higher than published")],
)
def test_a_detectors_numbers_are_higher_or_lower_but_never_better(paper, expected):
    assert detector_verdict(paper, Score(50.0, (45.5, 54.5), 100)) == expected
    assert detector_verdict(paper, Rate(500, 1000)) == expected
    assert detector_verdict(paper, Rate(500, 1000), comparable=False) == "not comparable"


@pytest.mark.parametrize(
    "interval, expected",
    [
        ((0.1, 9), "gains"),
        ((-9, -0.1), "loses"),
        ((-1, 9), "no difference seen"),
        ((0, 9), "no difference seen"),
    ],
)
def test_the_gains_verdict_is_that_of_its_interval(interval, expected):
    assert gain_verdict(Score(4.0, interval, 100)) == expected


def test_a_gain_within_what_chance_moves_is_not_seen():
    score = Score(4.0, (1.0, 9.0), 100)
    assert gain_verdict(score, yardstick=3.9) == "gains"
    assert gain_verdict(score, yardstick=4.0) == "no difference seen"
