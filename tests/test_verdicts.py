"""The words of a verdict."""

import pytest
import torch

from helpers import ledger
from helpers.measure.rates import Rate, Score
from helpers.measure.verdicts import (
    CLAIM,
    ERRORS,
    KEPT,
    LEGEND,
    claim_verdict,
    gain_verdict,
    kept,
    verdict,
    works,
)


def points(low, high):
    return Score((low + high) / 2, (low, high), 100, "points")


def said(defense="arn_pp", attack="pgd", ours=None, metric="error_rate", **known):
    known = {"kept": Rate(99, 100), "gained": points(1, 9), "promised": CLAIM, "paper": None} | known
    return verdict(defense, attack, ours or Rate(20, 1000), metric=metric, **known)


# --- natural images first ------------------------------------------------------------------------------


def test_nothing_else_is_said_of_what_does_not_work_on_natural_images():
    for attack in ("natural", "pgd"):
        failing = said(attack=attack, kept=Rate(127, 1000), gained=points(40, 50), paper=2.0)
        assert failing == "does not work on natural images"
    assert said(attack="natural", gained=None) == "works on natural images"


def test_every_defense_in_the_papers_works_on_natural_images_by_their_own_numbers():
    numbers = ledger.load().set_index("id")
    natural = numbers[(numbers.attack == "natural") & numbers.metric.isin(["accuracy", "error_rate"])]
    right = natural.value.where(natural.metric == "accuracy", 100 - natural.value)
    bare = {id.rsplit("/", 2)[0]: value for id, value in right.items() if id.split("/")[-2] == "none"}
    shares = [
        value / bare[id.rsplit("/", 2)[0]] for id, value in right.items() if id.rsplit("/", 2)[0] in bare
    ]
    assert len(shares) > 50 and min(shares) >= KEPT / 100


def test_only_the_images_that_the_bare_target_reads_need_be_kept():
    bare, defended = torch.tensor([True, True, True, False]), torch.tensor([True, False, True, False])
    assert kept(defended, bare) == Rate(2, 3)
    assert kept(torch.tensor([0.5, 1, 0.5, 0]), bare).value == pytest.approx(200 / 3)
    assert kept(defended[:2], bare) == Rate(1, 2)


def test_few_images_are_given_the_benefit_of_the_doubt():
    assert works(Rate(7, 10)) and not works(Rate(700, 1000))


# --- the gain over the bare target ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "low, high, word",
    [(0.1, 9, "gains"), (-9, -0.1, "loses"), (-1, 4, "no difference seen"), (-1, 9, "undecided")],
)
def test_the_gains_verdict_is_that_of_its_interval(low, high, word):
    assert gain_verdict(points(low, high)) == word == said(gained=points(low, high))


def test_how_wide_is_too_wide_goes_by_what_the_paper_claims():
    score = points(-4, 7)
    assert gain_verdict(score, claimed=11) == "no difference seen"
    assert gain_verdict(score, claimed=10.9) == "undecided"
    assert said(gained=score, promised=98) == "no difference seen"


def test_a_gain_within_what_chance_moves_is_not_seen():
    score = points(1, 7)
    assert gain_verdict(score, yardstick=3.9) == "gains"
    assert gain_verdict(score, yardstick=4.0) == "no difference seen"


def test_the_bare_target_is_the_yardstick_and_gains_nothing():
    assert said("none", kept=None, gained=None) == "the yardstick"
    assert said("none", ours=Rate(100, 100), paper=100.0) == "the yardstick, as claimed"


def test_who_was_not_attacked_by_somebody_who_knows_it_has_no_gain():
    assert said(gained=None) == "" and said(gained=None, paper=2.0) == "as claimed"


# --- the published number, at its own scale ------------------------------------------------------------


@pytest.mark.parametrize(
    "paper, errors, word",
    [(2.0, 20, "as claimed"), (2.0, 200, "worse than claimed"), (60.0, 200, "better than claimed")],
)
def test_a_claim_is_judged_by_the_errors_or_by_the_accuracy_that_goes_with_them(paper, errors, word):
    assert claim_verdict("error_rate", paper, Rate(errors, 1000)) == word
    assert claim_verdict("accuracy", 100 - paper, Rate(1000 - errors, 1000)) == word
    assert said(ours=Rate(errors, 1000), paper=paper) == f"gains, {word}"


def test_a_claim_allows_for_few_images():
    assert claim_verdict("error_rate", 2.0, Rate(1, 10)) == "as claimed"  # 10 %, but of ten images


@pytest.mark.parametrize("paper, word", [(50.0, "as"), (65.0, "lower than"), (35.0, "higher than")])
def test_a_detectors_numbers_are_higher_or_lower_but_never_better(paper, word):
    assert claim_verdict("roc_auc", paper, Score(50.0, (45.5, 54.5), 100)) == f"{word} claimed"


def test_each_word_has_its_meaning():
    words = {said(gained=points(*interval)) for interval in ((1, 2), (-2, -1), (-1, 1), (-9, 9))}
    words |= {said(attack="natural"), said(kept=Rate(1, 100)), said("none"), "published only"}
    words |= {
        claim_verdict(metric, p, Rate(50, 100)) for metric in ("accuracy", "recall") for p in (1, 50, 99)
    }
    assert words == set(LEGEND)


def test_the_metrics_of_which_more_is_worse_are_in_the_ledger():
    assert ERRORS <= ledger.RATES
