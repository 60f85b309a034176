"""Profiles: the shipped ones fit the code they drive, and a bad one is refused with the reason."""

import inspect

import pytest
import yaml

from helpers import data, profiles
from helpers.attacks import ATTACKS
from helpers.defenses import DEFENSES
from helpers.pipeline import ADVERTORCH_WEIGHTS, SEEN


def specs(kind):
    """Every attack or method of every data set of every shipped profile."""
    for profile in profiles.NAMES:
        for dataset, spec in profiles.load(profile).datasets.items():
            for name, item in getattr(spec, kind).items():
                yield pytest.param(item, id=f"{profile}-{dataset}-{name}")


def test_the_design_documents_profiles_are_shipped():
    assert {"quick", "standard", "paper"} <= set(profiles.NAMES)


@pytest.mark.parametrize("name", profiles.NAMES)
def test_a_shipped_profile_is_about_data_and_targets_that_exist(name):
    profile = profiles.load(name)
    assert profile.name == name and profile.notice
    assert profile.comparable == (name != "quick")
    assert bool(profile.deviation) == (name != "paper")
    for dataset, spec in profile.datasets.items():
        assert dataset in data.DATASETS
        assert {spec.target, *spec.robust_targets.values()} <= set(ADVERTORCH_WEIGHTS)
        for pair in SEEN.values():
            assert set(pair) <= set(spec.attacks)
        if profile.source == "sample":
            for split, n in (("train", spec.train), ("test", spec.test)):
                assert len(data.load(dataset, split, n=n)[0]) == n


@pytest.mark.parametrize("spec", specs("attacks"))
def test_each_attack_exists_and_takes_its_settings(spec):
    attack = inspect.signature(ATTACKS[spec.attack])
    attack.bind("model", "x", "y", targeted=spec.targeted, **spec.settings)
    assert spec.targeted or spec.attack != "jsma"
    assert not spec.targeted or spec.attack != "aa"


@pytest.mark.parametrize("spec", specs("methods"))
def test_each_method_exists_and_takes_its_settings(spec):
    inspect.signature(DEFENSES[spec.method]).bind(**spec.settings)
    assert (spec.data == "labels") == (spec.method == "adversarial_training")


@pytest.mark.parametrize("name", profiles.NAMES)
def test_an_attack_has_one_name_in_all_profiles_and_data_sets(name):
    """The letter after the attack says what it is: n untargeted, t targeted."""
    for spec in profiles.load(name).datasets.values():
        for attack, settings in spec.attacks.items():
            kind, goal = attack.split("_")[:2]
            assert kind == settings.attack and goal == ("t" if settings.targeted else "n")


# --- a profile of one's own --------------------------------------------------------------------------


def written(tmp_path, change=lambda content: None):
    content = yaml.safe_load((profiles.FOLDER / "quick.yaml").read_text())
    change(content)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_file_is_read_as_it_was_written(tmp_path):
    assert profiles.parse(written(tmp_path)) == profiles.load("quick")


def test_an_unknown_name_is_an_error_with_the_choices():
    with pytest.raises(ValueError, match="unknown profile 'fast'; choose one of .*paper.*quick.*standard"):
        profiles.load("fast")


def first_attack(content):
    return next(iter(content["datasets"]["mnist"]["attacks"].values()))


@pytest.mark.parametrize("change, parts", [
    (lambda c: c.update(precision="fp16"), ["precision", "'fp32' or 'bf16'", "fp16"]),
    (lambda c: c.update(source="downloads"), ["source", "'sample' or 'full'", "downloads"]),
    (lambda c: c.update(colour="red"), ["colour", "not permitted", "red"]),
    (lambda c: c.pop("notice"), ["notice", "required"]),
    (lambda c: c.pop("deviation"), ["deviation", "required"]),
    (lambda c: c["datasets"]["mnist"].update(test=0), ["datasets.mnist.test", "greater than 0"]),
    (lambda c: c["datasets"]["mnist"].update(train="all"), ["datasets.mnist.train", "all"]),
    (lambda c: first_attack(c).update(epsilon=0.3), ["datasets.mnist.attacks.pgd_n.epsilon", "not permitted"]),
    (lambda c: c["datasets"]["mnist"]["methods"]["arn"].update(data="triples"), ["'pairs' or 'labels'", "triples"]),
])
def test_a_bad_value_is_an_error_with_file_place_and_value(tmp_path, change, parts):
    file = written(tmp_path, change)
    with pytest.raises(ValueError) as error:
        profiles.parse(file)
    for part in [str(file), *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize("text", ["", "- a\n- list\n", "name: [unclosed\n"])
def test_a_file_that_is_no_profile_is_an_error_naming_it(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match="mine.yaml"):
        profiles.parse(file)


def test_a_profile_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="frozen"):
        profiles.load("quick").precision = "bf16"
