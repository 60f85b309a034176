"""What a profile changes of the paper's settings, in the few words of a table's row."""

from helpers import source
from helpers.lab import profiles
from helpers.lab.recipes import Recipes


def of_row(recipes: Recipes, defense: str, attack: str) -> list[str]:
    """What is changed about a row's defense, target and attack, one text each, such as "epochs 4 (30), bf16".

    In brackets what the profile "paper" has.  What is ready-made has no settings of a training.

    defense, attack: the row's, by their names in the ledger ("none", "arn_pp"; "natural", "cw").
    """
    spec, paper = recipes.spec, recipes.place["paper"]
    truth = profiles.load(paper, profiles.TRUTH)[recipes.dataset]
    method = _method(spec, defense, paper)
    trained = spec.methods.get(method)
    denoises = trained and "network" not in source.signature(source.method(trained.method))
    guided = spec.target in spec.methods and (denoises or defense == "none")

    found = _changed(_training(trained), _training(truth.methods[method])) if trained else []
    target = _changed(*(_training(one.methods[spec.target]) for one in (spec, truth))) if guided else []
    texts = [", ".join(found), "target: " + ", ".join(target) if target else ""]
    texts += _seen(spec, truth, defense.removeprefix(f"{method}_")) if trained else []
    if trained or guided:
        texts += [f"{spec.train} training images"] if spec.train != truth.train else []
        texts += [recipes.profile.precision] if recipes.profile.precision != "fp32" else []
    attack = attack.partition("-")[0]  # "pgd-ite40" is a row of PGD's images
    if attack in spec.attacks and attack in truth.attacks:
        texts += [", ".join(_changed(_settings(spec.attacks[attack]), _settings(truth.attacks[attack])))]
    return [text for text in texts if text]


def _method(spec, defense, paper):
    """The method of a row: "arn_pp" is `arn`, seen PGD twice; None where nothing is trained."""
    defense = paper if defense.startswith("ours") else defense
    names = [name for name in spec.methods if f"{defense}_".startswith(f"{name}_")]
    return max(names, key=len, default=None)


def _seen(spec, truth, group):
    """A text for each attack seen in training (`group` of the profile's `seen`) that has other settings."""
    found = []
    for ours, theirs in zip(spec.seen.get(group, ()), truth.seen.get(group, ()), strict=True):
        changed = _changed(_settings(spec.attacks[ours]), _settings(truth.attacks[theirs]))
        found += [f"seen {theirs}: {', '.join(changed)}"] if changed else []
    return found


def _training(method):
    given = source.signature(source.method(method.method)) | method.settings
    return given | {"epochs": method.epochs, "batch_size": method.batch_size}


def _settings(attack):
    return source.signature(source.attack(attack.attack)) | attack.settings


def _changed(ours, theirs):
    """Words for each setting that is not alike, those of dictionaries within them one by one."""
    found = []
    for name, value in ours.items():
        other = theirs.get(name)
        if isinstance(value, dict):
            found += _changed(value, other if isinstance(other, dict) else {})
        elif value != other:
            before = "" if other is None else f" ({_word(other)})"
            found.append(f"{name.replace('_', ' ')} {_word(value)}{before}")
    return found


def _word(value):
    return f"{value:g}" if isinstance(value, float) else str(value)
