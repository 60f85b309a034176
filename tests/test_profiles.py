"""Profiles: differences on the truth; what they name exists, and a bad one is refused with the reason."""

import json

import pytest
import yaml

from helpers import ROOT, data
from helpers.lab import profiles
from helpers.lab.experiment import Experiment
from helpers.lab.recipes import Recipes, row_of
from helpers.run import plan

SETTINGS = ROOT / "tests" / "paper_settings.json"


def experiments():
    """(paper, data set, profile) of all that ship."""
    for profile in profiles.profiles():
        for paper in profiles.papers():
            for dataset in profiles.load(paper, profile):
                yield pytest.param(paper, dataset, profile, id=f"{paper}-{dataset}-{profile}")


# --- what ships ---


def test_the_profiles_say_what_their_numbers_may_be_held_against():
    shipped = profiles.profiles()
    assert {"quick", "standard", "paper"} <= set(shipped)
    assert not shipped["quick"].comparable and shipped["paper"].comparable
    assert all(profile.notice for profile in shipped.values())
    assert all(bool(profile.deviation) != profile.comparable for profile in shipped.values())


@pytest.mark.parametrize("paper, dataset, profile", experiments())
def test_everything_that_a_profile_names_exists_and_takes_its_settings(paper, dataset, profile):
    recipes = Recipes(paper, dataset, profile, 0)
    spec = recipes.spec
    assert dataset in data.DATASETS
    for name, attack in spec.attacks.items():
        recipes.attack(name, recipes.target())
        assert attack.targeted or attack.attack != "jsma"
        assert not (attack.targeted and attack.attack in ("aa", "ensemble"))
    for name in spec.methods:
        for seen in ("", *spec.seen):
            recipes.defense(name, seen=seen or ())
    for name in ("target", *spec.targets):
        assert recipes.target(name).bare
    assert "adaptive" in spec.attacks or not any(a.attack == "aa" for a in spec.attacks.values())


@pytest.mark.parametrize("paper, dataset, profile", experiments())
def test_every_entry_of_every_grid_can_be_had(paper, dataset, profile):
    """A grid holds names of the lab and rows of a table; or values of a setting, layers and loss terms."""
    recipes = Recipes(paper, dataset, profile, 0)
    spec = recipes.spec
    ready = {"none", "target", *spec.targets}
    names = {*ready, "natural", *spec.methods, *spec.attacks, *spec.seen}
    for grid, entries in spec.grids.items():
        words = {entry for entry in entries if isinstance(entry, str)}
        assert words <= names or not words & names, (grid, words - names)
        for entry in entries:
            if isinstance(entry, dict) and ("defense" in entry or set(entry) <= set(spec.methods)):
                _, name, keywords = row_of(entry)
                assert name in ready or recipes.defense(name, **keywords), (grid, entry)


@pytest.mark.parametrize("paper, dataset, profile", experiments())
def test_a_sample_holds_as_many_images_as_are_asked_for(paper, dataset, profile):
    recipes = Recipes(paper, dataset, profile, 0)
    if recipes.source == "sample":
        for split in ("train", "test"):
            n = recipes.images(split)["n"]
            assert len(data.load(dataset, split, n=n)[0]) == n


@pytest.mark.parametrize("paper", profiles.papers())
def test_a_notebook_written_for_quick_finds_its_names_in_the_truth(paper):
    truth = profiles.load(paper, profiles.TRUTH)
    for dataset, spec in profiles.load(paper, "quick").items():
        whole = truth[dataset]
        assert set(spec.seen) == set(whole.seen)
        assert set(spec.targets) <= {*whole.targets, *whole.methods}
        assert {name for name, grid in spec.grids.items() if grid} <= set(whole.grids)


# --- what the papers say, place by place ---


def method(paper, dataset, name, **changes):
    """Complete settings of a method in the truth, and its whole recipe."""
    made = Recipes(paper, dataset, profiles.TRUTH, 0).defense(name, **changes).made
    return made["settings"], made


@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "lisa"])
def test_arns_section_4_2_trains_on_natural_images_too(dataset):
    """Seen attacks "together with natural examples as training data to train defense models".

    HGD restores natural examples but does not see them: notebook 23 shows both readings.
    """
    methods = profiles.load("arn", profiles.TRUTH)[dataset].methods
    for name in {"arn", "ape_gan", "hgd"} & set(methods):  # no HGD for LISA
        assert method("arn", dataset, name)[0]["natural_domain"] is (name != "hgd")


@pytest.mark.parametrize(
    "paper, dataset, counts",
    [
        ("add", "svhn", (60_000, 10_000)),  # Appendix C.1
        ("add", "lisa", (3508, 1164)),
        ("arn", "lisa", (3509, 1148)),  # Section 4.1
    ],
)
def test_numbers_of_images_are_the_papers(paper, dataset, counts):
    spec = profiles.load(paper, profiles.TRUTH)[dataset]
    assert (spec.train, spec.test) == counts


def attack_settings(paper, dataset, name):
    """The attack's name, and its complete settings in the truth."""
    made = Recipes(paper, dataset, profiles.TRUTH, 0).attack(name, None).made
    return made["attack"], made["settings"]


# ADD, Appendix C.1: {data set: numbers}, of C.1.1 PGD, .2 C&W, .3 DDN, .4 local search, .5 boundary attack.
ADD_C1 = {
    "mnist": {"eps": 0.15, "cw": 300, "ddn": 100, "changed": 300, "ba": 5000},
    "fashion_mnist": {"eps": 0.15, "cw": 200, "ddn": 100, "changed": 300, "ba": 5000},
    "cifar10": {"eps": 0.03, "cw": 50, "ddn": 100, "changed": 15, "ba": 2000},
    "svhn": {"eps": 0.025, "cw": 200, "ddn": 200, "changed": 300, "ba": 5000},
}


@pytest.mark.parametrize("dataset", ADD_C1)
def test_adds_attacks_are_those_of_its_appendix_c1(dataset):
    """What C.1 leaves open is advertorch's default: C&W's confidence and constant, local search's rounds."""
    printed = ADD_C1[dataset]
    cw = {"search_steps": 9, "steps": printed["cw"], "confidence": 0, "initial_const": 0.001}
    lsa = {"p": 10, "r": 1.5, "changed": printed["changed"], "rounds": 10, "candidates": 128, "reach": 5}
    wanted = {
        "pgd": ("pgd", {"eps": printed["eps"], "steps": 40}),
        "cw": ("cw", cw),
        "ddn": ("ddn", {"steps": printed["ddn"], "gamma": 0.05}),
        "lsa": ("lsa", lsa),
        "ba": ("ba", {"steps": printed["ba"]}),
    }
    for name in ("pgd", "cw", "ddn"):
        wanted[f"{name}_targeted"] = wanted[name]
    if dataset == "mnist":  # C.1.6, C.1.7
        wanted |= dict.fromkeys(("sta", "sta_targeted"), ("sta", {"steps": 5000, "search_steps": 20}))
        wanted["fwa"] = ("fwa", {"eps": 0.15, "steps": 300})
    for name, (attack, settings) in wanted.items():
        found, complete = attack_settings("add", dataset, name)
        assert found == attack and settings.items() <= complete.items(), name


@pytest.mark.parametrize(
    "paper, dataset, attacks, settings",
    [
        # ARN, Section 4.1 and the caption of Table 1; its released code's C&W and STA
        ("arn", "mnist", ["pgd", "pgd_targeted", "aa", "fwa"], {"eps": 0.3}),
        ("arn", "mnist", ["pgd_big", "aa_big", "fwa_big"], {"eps": 0.4}),
        ("arn", "cifar10", ["pgd", "pgd_targeted", "aa", "fwa"], {"eps": 8 / 255}),
        ("arn", "cifar10", ["pgd_big", "aa_big", "fwa_big"], {"eps": 0.05}),
        ("arn", "mnist", ["cw"], {"steps": 500, "search_steps": 4, "confidence": 1, "initial_const": 1}),
        ("arn", "mnist", ["sta", "sta_targeted"], {"steps": 5000, "search_steps": 20}),
        # JATP, Sections 4.1 and 4.2
        ("jatp", "cifar10", ["pgd_seen"], {"eps": 8 / 255, "steps": 40, "step_size": 0.007}),
        ("jatp", "cifar10", ["pgd"], {"eps": 8 / 255, "steps": 40, "step_size": 0.01}),
        ("jatp", "cifar10", ["dlr"], {"eps": 8 / 255, "steps": 40, "step_size": 0.007}),
        ("jatp", "cifar10", ["fwa"], {"eps": 8 / 255, "steps": 20, "step_size": 0.01}),
        # DIR, Sections 4.1 and 4.2
        ("dir", "cifar10", ["pgd", "mi", "vni"], {"eps": 8 / 255, "steps": 20, "step_size": 2 / 255}),
        ("dir", "cifar10", ["mask_adaptive", "pgd_40"], {"steps": 40, "step_size": 2 / 255}),
        ("dir", "cifar10", ["restored"], {"steps": 20}),
        # what a stochastic defense must face, besides
        ("dir", "cifar10", ["aa_rand"], {"version": "rand"}),
        ("dir", "cifar10", ["apgd_ce_eot"], {"restarts": 5}),
    ],
)
def test_attacks_of_the_other_papers_are_as_printed(paper, dataset, attacks, settings):
    for name in attacks:
        assert settings.items() <= attack_settings(paper, dataset, name)[1].items(), name


def test_eq_14s_weight_is_that_of_the_code_that_add_names():
    """phattacks has λ = 0.02 and takes no gradient of it: with it, and as that code steps."""
    for dataset in ("mnist", "lisa"):
        assert attack_settings("add", dataset, "mask1_eq14")[1]["regularisation"] == 0.02
        assert attack_settings("add", dataset, "mask1")[1]["regularisation"] == 0


@pytest.mark.parametrize("paper", ["add", "arn"])
def test_an_attacker_drives_the_code_to_another_class(paper):
    for spec in profiles.load(paper, profiles.TRUTH).values():
        assert "aa" not in spec.attacks or spec.attacks["code"].attack == "code_pgd"


@pytest.mark.parametrize("profile", ["standard", "paper"])
def test_the_larger_profiles_draw_and_attack_all_that_the_papers_show(profile):
    add, arn, jatp = (profiles.load(paper, profile) for paper in ("add", "arn", "jatp"))
    eight = {"pgd", "pgd_targeted", "cw", "cw_targeted", "ba", "lsa", "ddn", "ddn_targeted"}
    grids = add["mnist"].grids
    assert set(grids["figure 8"]) == set(grids["table 1, attacks"]) == eight
    assert set(grids["table 1, data sets"]) == {"fashion_mnist", "cifar10", "svhn"}  # Figures 9 to 11
    assert grids["figure 7b"] == ["cifar10"]
    assert set(arn["mnist"].grids["figure 3"]) >= {"pgd", "cw", "ddn", "aa", "jsma_targeted", "sta", "fwa"}
    for spec in jatp.values():
        assert set(spec.grids["svhn, attacks"]) == {"pgd", "dlr", "aa", "fwa", "ti_bim"}
        # AutoAttack before the targets of Table 2
        assert spec.attacks["adaptive"].attack == "aa"
        assert {"none", "jatp", "jatp_prime"} <= {row_of(e)[0] for e in spec.grids["table 2, adaptive"]}
        assert set(spec.grids["table 2 targets"]) == {"standard", "mma", "mart"}


@pytest.mark.parametrize("paper", ["jatp", "dir"])
@pytest.mark.parametrize("dataset", ["cifar10", "svhn"])
def test_every_denoiser_crops_and_mirrors(paper, dataset):
    """JATP, Section 4.1, for all methods; DIR's released code for its own, and so its baselines."""
    for name, spec in profiles.load(paper, profiles.TRUTH)[dataset].methods.items():
        assert method(paper, dataset, name)[0]["augment"] is True, (name, spec)


def test_dirs_methods_are_all_trained_on_pgd_with_five_steps():
    """DIR, Section 4.1: "the attack used in all methods was PGD attack ... a step number of 5"."""
    five = {"eps": 8 / 255, "steps": 5, "step_size": 2 / 255}
    recipes = Recipes("dir", "cifar10", profiles.TRUTH, 0)
    for name in ("ape_gan", "hgd", "nrp"):
        (seen,) = recipes.defense(name, seen="p").made["seen"]
        assert seen["attack"] == "pgd" and five.items() <= seen["settings"].items()
    assert method("dir", "cifar10", "nrp")[0]["self_supervised"] is False
    for name in ("jatp", "jatp_natural", "ape_gan_full", "hgd_full", "nrp_full"):
        assert method("dir", "cifar10", name)[1]["inner"]["full"]["settings"].items() >= five.items()
    assert five.items() <= method("dir", "cifar10", "dir")[0].items()
    for row in ("table 1", "table 2", "figure 6(b)"):
        assert {"row": "nrp", "defense": "nrp", "seen": "p"} in recipes.spec.grids[row]


def test_a_quick_rate_does_not_reach_the_truth():
    assert method("dir", "cifar10", "jatp_natural")[0]["learning_rate"] == 0.01  # JATP, Section 4.1


def test_what_dir_released_is_pre_trained_with_misplaces_halves_too():
    settings, made = method("dir", "cifar10", "dir_released")
    assert settings["misplaced"] is True and made["pretrained"]["settings"]["misplaced"] is True
    assert method("dir", "cifar10", "dir")[1]["pretrained"]["settings"]["misplaced"] is False


@pytest.mark.parametrize("paper", ["add", "arn"])
def test_lid_looks_for_20_of_100_images_as_ma_et_al(paper):
    sizes = profiles.load(paper, profiles.TRUTH)["mnist"].sizes
    assert (sizes["lid neighbours"], sizes["lid minibatch"]) == (20, 100)


def test_a_size_is_asked_for_by_its_name():
    lab = Experiment("add", "mnist", profiles.TRUTH)
    assert lab.size("votes") == 100
    with pytest.raises(ValueError, match="unknown size of .*'vote'; choose one of lid neighbours"):
        lab.size("vote")


def truth():
    """{paper, data set, kind and name: the paper's settings}, without what only chooses among them."""
    found = {}
    for paper in profiles.papers():
        for dataset, spec in profiles.load(paper, profiles.TRUTH).items():
            content = spec.model_dump(mode="json", exclude={"grids"}, exclude_defaults=True)
            for kind, entries in content.items():
                named = kind in ("attacks", "methods", "seen")
                for name, entry in entries.items() if named else [("", entries)]:
                    found[f"{paper} {dataset} {kind} {name}".strip()] = entry
    return found


def test_the_papers_settings_are_what_they_were():
    """They are read from the papers: a change is a correction, and confirmed as the message says."""
    now, pinned = truth(), json.loads(SETTINGS.read_text())
    changed = sorted(name for name in {*now, *pinned} if now.get(name) != pinned.get(name))
    assert not changed, f"changed: {', '.join(changed)}; if it is a correction: python -m tests.test_profiles"


def write_settings():
    lines = [f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(truth().items())]
    SETTINGS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


# --- profiles as differences ---

TRUTH = """
mnist:
  train: null
  test: 10
  adaptive_test: 5
  target: lenet5_clean
  seen: {p: [pgd]}
  attacks:
    pgd: {attack: pgd, settings: {eps: 8/255, steps: 40}}
  methods:
    arn: {method: arn.ARN, epochs: 100, batch_size: 300, settings: {theta: 0.1}}
  sizes: {votes: 100}
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A function that writes a paper `toy` and what `quick` changes of it, and loads the profile."""
    folder = tmp_path / "papers"
    folder.mkdir()
    monkeypatch.setattr(profiles, "FOLDER", folder)

    def forget():
        for cached in (profiles.profiles, profiles.papers, profiles.load):
            cached.cache_clear()

    words = {"notice": "n", "deviation": "d", "comparable": False, "source": "sample", "precision": "fp32"}
    (tmp_path / "profiles.yaml").write_text(yaml.safe_dump({"paper": words, "quick": words, "other": words}))

    def loaded(change="", profile="quick"):
        forget()
        (folder / "toy.yaml").write_text(TRUTH)
        (folder / "toy.quick.yaml").write_text(change)
        return profiles.load("toy", profile)["mnist"]

    yield loaded
    forget()


def test_a_fraction_is_a_number(toy):
    assert toy(profile="paper").attacks["pgd"].settings == {"eps": 8 / 255, "steps": 40}
    spec = toy("mnist: {attacks: {pgd: {settings: {eps: 4/255}}}}")
    assert spec.attacks["pgd"].settings == {"eps": 4 / 255, "steps": 40}


def test_a_profile_changes_what_it_says_and_nothing_else(toy):
    whole = toy(profile="paper").model_dump()
    change = """
mnist:
  train: 100
  seen: {pp: [pgd, pgd]}
  methods: {arn: {epochs: 2, settings: {width: 0.1}, modules: {target: null}}}
"""
    assert toy(change).model_dump() == whole | {
        "train": 100,
        "seen": {"p": ["pgd"], "pp": ["pgd", "pgd"]},
        "methods": {
            "arn": whole["methods"]["arn"]
            | {"epochs": 2, "settings": {"theta": 0.1, "width": 0.1}, "modules": {"target": None}}
        },
    }


@pytest.mark.parametrize(
    "change, message",
    [
        ("minst: {train: 1}", "toy.quick.yaml: / has no 'minst' to change; it has mnist"),
        ("mnist: {attacks: {pdg: {test: 1}}}", "/mnist/attacks has no 'pdg' to change; it has pgd"),
        ("mnist: {methods: {arm: {epochs: 1}}}", "/mnist/methods has no 'arm' to change; it has arn"),
        ("mnist: {sizes: {vote: 1}}", "/mnist/sizes has no 'vote' to change; it has votes"),
        ("mnist: {trian: 1}", r"(?s)toy.quick.yaml, mnist:.*trian.*not permitted"),
        ("mnist: {attacks: {pgd: {epsilon: 1}}}", r"(?s)attacks.pgd.epsilon.*not permitted"),
        ("mnist: {methods: {arn: {epoch: 1}}}", r"(?s)methods.arn.epoch\b.*not permitted"),
        ("mnist: {test: 0}", r"(?s)toy.quick.yaml, mnist:.*test.*greater than 0"),
        ("mnist: {train: all}", r"(?s)train.*valid integer.*all"),
        ("mnist: {source: downloads}", r"(?s)source.*'sample' or 'full'.*downloads"),
        ("", "toy.quick.yaml must hold names and what they mean"),
        ("- a\n- list\n", "toy.quick.yaml must hold names"),
        ("mnist: [unclosed\n", "toy.quick.yaml"),
    ],
)
def test_a_change_of_what_there_is_not_is_refused_with_file_and_place(toy, change, message):
    with pytest.raises(ValueError, match=message):
        toy(change)


def test_unknown_names_are_refused_with_the_choices(toy):
    toy("mnist: {}")
    with pytest.raises(ValueError, match="unknown profile: 'fast'; choose one of other, paper, quick"):
        profiles.load("toy", "fast")
    with pytest.raises(ValueError, match="unknown paper: 'arn'; choose one of toy"):
        profiles.load("arn", "quick")
    with pytest.raises(
        ValueError, match="toy has no profile 'other': write what it changes into .*toy.other.yaml"
    ):
        profiles.load("toy", "other")


def test_a_setting_that_the_code_does_not_take_is_refused_when_it_is_used(toy):
    toy("mnist: {attacks: {pgd: {settings: {epsilon: 1}}}, methods: {arn: {settings: {lamda1: 1}}}}")
    recipes = Recipes("toy", "mnist", "quick", 0)
    with pytest.raises(ValueError, match="attack pgd has no setting 'epsilon'; it has eps, steps"):
        recipes.attack("pgd", None)
    with pytest.raises(ValueError, match="method arn has no setting 'lamda1'; it has .*lambda1"):
        recipes.defense("arn")


def test_a_profile_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="frozen"):
        profiles.profile("quick").precision = "bf16"


def test_a_data_set_may_be_like_another_profiles_and_say_what_its_numbers_are_worth():
    quick, cpu = (profiles.load("arn", name)["cifar10"] for name in ("quick", "cpu"))
    assert (cpu.train, cpu.attacks, cpu.methods) == (quick.train, quick.attacks, quick.methods)
    photographs, digits = (Experiment("arn", dataset, "cpu") for dataset in ("cifar10", "mnist"))
    assert digits.comparable and not photographs.comparable
    assert photographs.deviation and not digits.deviation
    assert "23_arn_pixel_attacks" in (names := [run.name for run in plan.runs("cpu")])
    assert "23_arn_pixel_attacks.cifar10" not in names


if __name__ == "__main__":
    write_settings()
