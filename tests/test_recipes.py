"""Recipes: complete settings, keys and fingerprints, computed without torch."""

import json
import shutil
import subprocess
import sys

import pytest

from helpers import ROOT, source
from helpers.lab import profiles
from helpers.lab.recipes import Recipes, code_of

SCRIPT = """
import json, sys
from helpers.lab.recipes import Recipes, code_of
recipes = Recipes("arn", "mnist", "quick", 0)
arn = recipes.defense("arn", seen="pp")
pgd = recipes.attack("pgd", recipes.target())
at = recipes.defense("at_own", attack_settings={"eps": 0.3})
mean = recipes.attack("pgd", recipes.target().under("eot", samples=5))
found = [arn.key, code_of(arn.made), pgd.key, code_of(pgd.made), at.key, code_of(mean.made)]
print(json.dumps([*found, "torch" in sys.modules]))
"""


@pytest.fixture
def recipes():
    return Recipes("arn", "mnist", "quick", 0)


@pytest.fixture
def tree(tmp_path):
    """A copy of the source, to be edited."""
    shutil.copytree(ROOT / "helpers", tmp_path / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def look(tree):
    """Key and code of an ARN, then of a PGD, the key of an AT, the code of a PGD under EOT: all of `tree`."""
    command = [sys.executable, "-c", SCRIPT]
    answer = subprocess.run(command, cwd=tree, env={"PYTHONPATH": str(tree)}, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    *found, torch_was_loaded = json.loads(answer.stdout)
    assert not torch_was_loaded
    return found


def edit(tree, file, old, new):
    path = tree / "helpers" / file
    text = path.read_text()
    assert text.count(old) >= 1, f"{old!r} is not in {file}"
    path.write_text(text.replace(old, new, 1))


# --- what a key depends on ---


def test_a_changed_default_changes_the_key(tree):
    before = look(tree)
    edit(tree, "defenses/arn.py", "lambda1: float = 0.1", "lambda1: float = 7.0")
    after = look(tree)
    assert before[0] != after[0]
    assert before[2:] == after[2:]  # the attack on the bare target, and other methods, are the same


def test_a_changed_loss_changes_the_fingerprint_and_names_what_changed(tree):
    before = look(tree)
    edit(tree, "losses.py", "0.5 * (mean.square()", "0.7 * (mean.square()")
    after = look(tree)
    assert before[0] == after[0]
    assert [name for name in before[1] if before[1][name] != after[1][name]] == ["helpers.losses.moment_kl"]


def test_a_changed_network_changes_the_fingerprint(tree):
    before = look(tree)
    edit(tree, "defenses/arn.py", "class Encoder(nn.Module):", "class Encoder(nn.Module):\n    extra = 1\n")
    after = look(tree)
    assert [name for name in before[1] if before[1][name] != after[1][name]] == [
        "helpers.defenses.arn.Encoder"
    ]


def test_a_changed_threat_changes_the_fingerprint_of_what_is_made_under_it(tree):
    before = look(tree)
    edit(tree, "threats.py", "logsumexp(0) - math.log", "logsumexp(0) + math.log")
    after = look(tree)
    assert before[1:5] == after[1:5]
    changed = [name for name in before[5] if before[5][name] != after[5][name]]
    assert changed == ["helpers.threats._Expectation"]


def test_a_comment_and_a_docstring_change_nothing(tree):
    before = look(tree)
    edit(tree, "defenses/arn.py", '"""ARN', '"""Another docstring: ARN')
    edit(tree, "losses.py", "def moment_kl", "# a comment\ndef moment_kl")
    edit(tree, "losses.py", '"""KL(P', '"""Other words: KL(P')
    assert look(tree) == before


def test_a_raised_revision_changes_the_key(tree):
    before = look(tree)
    edit(tree, "attacks/pgd.py", "@attack(revision=1)\ndef pgd(", "@attack(revision=2)\ndef pgd(")
    after = look(tree)
    assert before[2] != after[2]
    assert before[0] != after[0]  # it has seen examples of this attack


def test_defaults_are_part_of_the_settings(recipes):
    settings = recipes.defense("arn", seen="pp").made["settings"]
    assert settings["lambda1"] == 0.1 and settings["without"] == ()
    assert recipes.attack("pgd", recipes.target()).made["settings"]["norm"] == "linf"


def test_a_change_is_a_setting_like_any_other(recipes):
    plain, changed = recipes.defense("arn", seen="pp"), recipes.defense("arn", seen="pp", lambda1=1.0)
    assert changed.made["settings"] == plain.made["settings"] | {"lambda1": 1.0}
    assert recipes.defense("arn", seen="pp", lambda1=0.1).key == plain.key


def test_an_attack_is_keyed_by_what_it_attacks(recipes):
    def attack(**changes):
        arn = recipes.defense("arn", seen="pp", **changes)
        return recipes.attack("pgd", arn.part("denoiser").then(recipes.target()))

    assert attack().key != attack(lambda1=1.0).key
    assert attack().key == attack(lambda1=0.1).key


def test_an_attack_inside_a_training_is_complete_too():
    def key(**settings):
        return Recipes("arn", "mnist", "quick", 0).defense("at_own", attack_settings=settings).key

    assert key(eps=0.3) != key(eps=0.2)
    made = Recipes("arn", "mnist", "quick", 0).defense("at_own", attack_settings={"eps": 0.3}).made
    inner = made["inner"]["attack_settings"]
    assert inner["attack"] == "pgd" and inner["settings"]["steps"] == 40
    assert "helpers.attacks.pgd.pgd" in made["revisions"]


def test_a_changed_default_of_an_attack_inside_a_training_changes_the_key(tree):
    before = look(tree)
    edit(tree, "attacks/pgd.py", "steps: int = 40", "steps: int = 41")
    after = look(tree)
    assert before[4] != after[4]
    assert before[2] == after[2]  # its profile gives the steps


def test_seed_and_profile_are_part_of_the_key(recipes):
    keys = {
        recipes.defense("arn", seen="pp").key,
        Recipes("arn", "mnist", "quick", 1).defense("arn", seen="pp").key,
        Recipes("arn", "mnist", "standard", 0).defense("arn", seen="pp").key,
    }
    assert len(keys) == 3


# --- what is refused ---


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda r: r.defense("arm"), "unknown method of paper arn: 'arm'; choose one of arn"),
        (lambda r: r.attack("pgdd", None), "unknown attack of paper arn: 'pgdd'; choose one of pgd"),
        (lambda r: r.defense("arn", seen="pq"), "unknown set of seen attacks: 'pq'"),
        (lambda r: r.defense("arn", seen="pp", lamda1=1.0), "method arn has no setting 'lamda1'; it has"),
        (lambda r: r.attack("pgd", None, step=1), "attack pgd has no setting 'step'; it has"),
        (lambda r: Recipes("arm", "mnist", "quick", 0), "unknown paper: 'arm'; choose one of add, arn"),
        (lambda r: Recipes("arn", "mnist", "fast", 0), "unknown profile: 'fast'; choose one of"),
        (
            lambda r: Recipes("arn", "svhn", "quick", 0),
            "unknown data set of paper arn .*: 'svhn'; choose one of mnist",
        ),
    ],
)
def test_unknown_names_are_refused_with_the_choices(recipes, call, message):
    with pytest.raises(ValueError, match=message):
        call(recipes)


# --- the code that made it ---

PINNED = ROOT / "tests" / "fingerprints.json"

# How the lab turns a recipe into tensors: a change of substance raises FORMAT in helpers/lab/recipes.py.
LAB = ("natural", "_fresh", "_training_data", "_attacked")


def code_by_user():
    """{method or attack: fingerprint of its code}, for all that any paper names, and for the lab itself."""
    found = {"lab.make": source.fingerprint(*(source.find("helpers.lab.make", name) for name in LAB))}
    for paper in profiles.papers():
        for dataset, spec in profiles.load(paper, profiles.TRUTH).items():
            recipes = Recipes(paper, dataset, profiles.TRUTH, 0)
            for name in spec.methods:
                made = recipes.defense(name).made
                found.setdefault(made["method"], {}).update(code_of(made))
    return found | {name: source.fingerprint(source.attack(name)) for name in source.attacks()}


def test_a_change_of_substance_needs_a_decision():
    """Whoever changes code that makes artifacts raises a revision or not, and confirms it."""
    users = code_by_user()
    now = {name: value for code in users.values() for name, value in code.items()}
    pinned = json.loads(PINNED.read_text())
    changed = {name for name in {*now, *pinned} if now.get(name) != pinned.get(name)}
    concerned = sorted(user for user, code in users.items() if changed & set(code))
    assert not changed, (
        f"{', '.join(sorted(changed))} changed, which makes {', '.join(concerned)}: raise `revision` where"
        f" results change, then write {PINNED.relative_to(ROOT)} again: python -m tests.test_recipes"
    )


def write_fingerprints():
    now = {name: value for code in code_by_user().values() for name, value in code.items()}
    PINNED.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write_fingerprints()
