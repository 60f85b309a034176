"""Profiles: the shipped ones fit the code they drive, and a bad one is refused with the reason."""

import inspect

import pytest
import yaml

from helpers import data
from helpers.lab import profiles
from helpers.attacks import ATTACKS
from helpers.defenses import DEFENSES
from helpers.networks.zoo import ADVERTORCH_WEIGHTS, ZOO


CLASSIFIERS = ("classifier", "adversarial_training", "trades", "mart", "mma", "me_net", "smoothing")
# of JATP, DIR and ARN: ready-made in one profile, trained in another
TARGETS = {"standard", "natural", "trades", "mart", "mma", "wrn", "vgg"}


def experiments(profile):
    """(paper, data set, spec) of a shipped profile."""
    for paper, datasets in profiles.load(profile).papers.items():
        for dataset, spec in datasets.items():
            yield paper, dataset, spec


def specs(kind):
    """Every attack or method of every data set of every paper in every shipped profile."""
    for profile in profiles.NAMES:
        for paper, dataset, spec in experiments(profile):
            for name, item in getattr(spec, kind).items():
                yield pytest.param(item, id=f"{profile}-{paper}-{dataset}-{name}")


def test_the_design_documents_profiles_are_shipped():
    assert {"quick", "standard", "paper"} <= set(profiles.NAMES)


@pytest.mark.parametrize("name", profiles.NAMES)
def test_a_shipped_profile_is_about_data_and_targets_that_exist(name):
    profile = profiles.load(name)
    assert profile.name == name and profile.notice
    assert profile.comparable == (name != "quick")
    assert bool(profile.deviation) == (name != "paper")
    for _, dataset, spec in experiments(name):
        assert dataset in data.DATASETS
        trained = {name for name, method in spec.methods.items() if method.data == "labels"}
        ready = set(ADVERTORCH_WEIGHTS) | set(ZOO)
        assert set(spec.targets.values()) <= ready and not set(spec.targets) & set(spec.methods)
        assert {spec.target, *spec.robust_targets.values()} <= ready | set(spec.targets) | trained
        for attacks in spec.seen.values():
            assert set(attacks) <= set(spec.attacks)
        if (spec.source or profile.source) == "sample":
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
    assert (spec.data == "labels") == (spec.method in CLASSIFIERS)
    assert (spec.data == "natural") == (spec.full is not None or spec.method in ("nrp", "jatp", "dir"))
    if spec.full is not None:
        inspect.signature(ATTACKS["pgd"]).bind("model", "x", "y", targeted=False, **spec.full)


@pytest.mark.parametrize("name", profiles.NAMES)
def test_the_letter_after_an_attack_says_whether_it_is_targeted(name):
    """ARN writes n for untargeted attacks and names them as the library here does; ADD writes u; JATP and DIR have no others."""
    for paper, _, spec in experiments(name):
        if paper in ("jatp", "dir"):
            assert not any(attack.targeted for attack in spec.attacks.values())
            continue
        for attack, settings in spec.attacks.items():
            if settings.attack == "rp2":  # named after their masks
                continue
            kind, goal = attack.split("_")[:2]
            assert goal == ("t" if settings.targeted else {"arn": "n", "add": "u"}[paper])
            assert paper != "arn" or kind == settings.attack.removesuffix("_pgd")


def test_a_notebook_written_for_quick_finds_its_names_in_every_profile():
    def names(profile):
        for paper, dataset, spec in experiments(profile):
            # a target's name is the profile's own affair
            kinds = {"attack": spec.attacks, "seen": spec.seen, "method": set(spec.methods) - {spec.target}}
            kinds["target"] = {*spec.targets, *(TARGETS & set(spec.methods))}
            yield from ((paper, dataset, kind, name) for kind, found in kinds.items() for name in found)

    for profile in profiles.NAMES:
        assert set(names("quick")) <= set(names(profile))


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
    return next(iter(content["papers"]["arn"]["mnist"]["attacks"].values()))


@pytest.mark.parametrize("change, parts", [
    (lambda c: c.update(precision="fp16"), ["precision", "'fp32' or 'bf16'", "fp16"]),
    (lambda c: c.update(source="downloads"), ["source", "'sample' or 'full'", "downloads"]),
    (lambda c: c.update(colour="red"), ["colour", "not permitted", "red"]),
    (lambda c: c.pop("notice"), ["notice", "required"]),
    (lambda c: c.pop("deviation"), ["deviation", "required"]),
    (lambda c: c["papers"]["arn"]["mnist"].update(test=0), ["papers.arn.mnist.test", "greater than 0"]),
    (lambda c: c["papers"]["arn"]["mnist"].update(train="all"), ["papers.arn.mnist.train", "all"]),
    (lambda c: first_attack(c).update(epsilon=0.3), ["papers.arn.mnist.attacks.pgd.epsilon", "not permitted"]),
    (lambda c: c["papers"]["arn"]["mnist"]["methods"]["arn"].update(data="triples"), ["'pairs', 'natural' or 'labels'", "triples"]),
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
