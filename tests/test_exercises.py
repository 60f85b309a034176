"""Checks of exercises tell right from wrong, and guesses are remembered."""

import pytest

from helpers.show.exercises import Guess, check

HALF = (lambda x: abs(x - 0.5) < 0.1, "Half of it is expected.")


@pytest.mark.parametrize("answer", [None, (1, None), {"a": None}])
def test_an_answer_with_a_hole_is_not_done(answer):
    outcome = check(2, answer, HALF)
    assert not outcome.right and "Exercise 2 is not done yet" in repr(outcome)


def test_the_first_broken_rule_gives_its_hint():
    outcome = check(1, 0.9, HALF, (lambda x: x > 1, "Not this one."))
    assert not outcome.right and outcome.message == "✗ Exercise 1: Half of it is expected."
    assert check(1, 0.45, HALF).right


def test_an_answer_that_cannot_be_used_is_wrong_and_says_why():
    outcome = check(3, "a half", HALF)
    assert not outcome.right and "TypeError" in outcome.message and "Half of it" in outcome.message


def test_a_guess_is_shown_beside_the_outcome():
    guess = Guess("How much is left?", ["all", "nothing"])
    assert "no guess yet" in guess.beside("3 %").data
    guess.buttons.value = "nothing"
    assert guess.beside("3 %").data == "You expected: **nothing**. It came out: 3 %"
