"""What a profile changes of a row's settings, said in its column."""

import pytest

from helpers.lab import Experiment, deviations, profiles
from helpers.measure.comparison import Comparison
from helpers.measure.rates import Rate


def of(defense, attack="natural", place=("arn", "mnist", "cpu")):
    return "; ".join(deviations.of_row(Experiment(*place).recipes, defense, attack))


def test_a_denoisers_training_is_named_with_the_papers_numbers():
    ours, paper = (profiles.load("arn", name)["mnist"].methods["arn"] for name in ("cpu", "paper"))
    words = of("arn_pp")
    assert f"epochs {ours.epochs} ({paper.epochs})" in words and words.endswith("bf16")
    assert f"width {ours.settings['width']:g} (1)" in words  # the class's default where the paper names none


@pytest.mark.parametrize("defense", ["none", "at_pgd"])
def test_what_is_ready_made_has_no_training(defense):
    assert of(defense) == ""


def test_a_target_of_our_own_training_counts_for_what_stands_before_it():
    place = ("arn", "cifar10", "standard")
    target = of("none", place=place)
    assert target.startswith("target: epochs ") and of("arn_pp", place=place).count(target.split(";")[0]) == 1
    assert "target" not in of("at_pgd", place=place)  # is trained itself


def test_an_attacks_settings_are_named_where_they_differ():
    steps = {
        name: profiles.load("arn", name)["mnist"].attacks["cw"].settings["steps"] for name in ("cpu", "paper")
    }
    assert f"steps {steps['cpu']} ({steps['paper']})" in of("none", "cw")
    assert of("none", "pgd") == "" != of("doa_7x7", "pgd")
    assert of("none", "sta-fooling") == of("none", "sta") != ""


def test_attacks_seen_in_training_are_named_with_their_settings():
    words = of("arn_ps")
    steps = [profiles.load("arn", p)["mnist"].attacks["sta_seen"].settings["steps"] for p in ("cpu", "paper")]
    assert "seen sta: steps {} ({})".format(*steps) in words
    assert "seen" not in of("arn_pp")


def test_a_defense_that_the_ledger_calls_ours_is_the_papers():
    place = ("add", "mnist", "cpu")
    assert of("ours_eps0.3", place=place) == of("add_pp", place=place) != ""


@pytest.mark.parametrize("paper", profiles.papers())
def test_the_papers_own_settings_deviate_in_nothing(paper):
    for dataset, spec in profiles.load(paper, "paper").items():
        for defense in ("none", *spec.methods):
            for attack in ("natural", *spec.attacks):
                assert of(defense, attack, (paper, dataset, "paper")) == ""


def test_a_row_says_what_is_changed_only_where_it_may_be_compared():
    for profile, said in (("cpu", of("arn_pp", "pgd")), ("quick", profiles.profile("quick").deviation)):
        table = Comparison("23_test", Experiment("arn", "mnist", profile))
        table.add("arn/t1/lenet/arn_pp/pgd", Rate(1, 100), reason="few images")
        assert table.rows[0]["deviation"] == f"{said}; few images"
