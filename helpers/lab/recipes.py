"""Recipes: from names to complete settings to keys, without torch.

A `Recipe` says what something is made from, down to every default and revision, and how it was asked for.
Targets, defenses, threats on them and adversarial sets all have one, so that whatever is attacked is known by
its recipe.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from helpers import ROOT, source
from helpers.lab import profiles

# Part of every key.  Raise it when an artifact comes to hold something else for the same recipe.
FORMAT = 2

# Keyword arguments of a method that come from the experiment, not from the profile.
COUNTED = ("seen", "images")

# Those that are networks: given by the name of a target, as a network of the lab, or as the profile's
# `modules`.
MODULES = ("target", "start", "pretrained", "behind")

# Attacks that a method is trained on: their names, or the profile's name for a set of them.
Seen = str | Sequence[str]

# What an attack takes that is no setting: the seed is the experiment's.
GIVEN = ("model", "x", "y", "targeted", "seed")


@dataclass(frozen=True)
class Recipe:
    """What something is made from.

    made: everything that determines it, serialisable as JSON; its key is a hash of this.
    asked: the names by which it was asked for; `helpers.lab.experiment.again` understands them.
    parts: the recipes it is made from, by their role.
    """

    made: dict[str, Any]
    asked: dict[str, Any] = field(compare=False)
    parts: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits."""
        return source.digest(json.dumps(_plain([FORMAT, self.made]), sort_keys=True, separators=(",", ":")))

    @property
    def bare(self) -> bool:
        """Whether it is a classifier with nothing in front of it."""
        return "ready_made" in self.made or self.made.get("part") == "target"

    def part(self, name: str) -> "Recipe":
        """Recipe of a network that this method has trained: its "target" or its "denoiser"."""
        return Recipe({"part": name, "of": self.made}, {"part": name, "of": self.asked}, {"of": self})

    def then(self, target: "Recipe") -> "Recipe":
        """Recipe of target ∘ denoiser, this being the denoiser's."""
        made = {"denoiser": self.made, "target": target.made}
        return Recipe(made, {"then": [self.asked, target.asked]}, {"denoiser": self, "target": target})

    def under(self, threat: str, **settings: Any) -> "Recipe":
        """Recipe of what an attacker attacks in place of this.

        threat: a function of `helpers.threats`.
        settings: its keyword arguments; they may be recipes themselves.
        """
        plain = {name: s.made if isinstance(s, Recipe) else s for name, s in settings.items()}
        names = {name: s.asked if isinstance(s, Recipe) else s for name, s in settings.items()}
        return Recipe(
            {"threat": threat, **plain, "of": self.made},
            {"threat": threat, "settings": names, "of": self.asked},
            {"of": self},
        )


class Recipes:
    """All recipes of one paper's experiments on one data set, under one profile and seed.

    paper, dataset, profile: names; ValueError for one that does not exist, with the choices.
    seed: of the training and of every attack.
    """

    def __init__(self, paper: str, dataset: str, profile: str, seed: int) -> None:
        self.profile = profiles.profile(profile)
        specs = profiles.load(paper, profile)
        self.spec = profiles.choose(specs, dataset, f"data set of paper {paper} in profile {profile}")
        self.dataset, self.seed = dataset, seed
        self.place = {"paper": paper, "dataset": dataset, "seed": seed}
        self.source = self.spec.source or self.profile.source

    def images(self, split: str) -> dict[str, Any]:
        """What natural images are: of which data set, how many, from where; of a sample also its content."""
        limit = self.spec.train if split == "train" else self.spec.test
        images = {"name": self.dataset, "split": split, "n": limit, "source": self.source}
        if self.source == "sample":
            images["content"] = _content(ROOT / "data" / "samples" / f"{self.dataset}_{split}.npz")
        return images

    def seen(self, attacks: Seen) -> list[str]:
        """Names of attacks; a string is the profile's name for a set of them."""
        if isinstance(attacks, str):
            return profiles.choose(self.spec.seen, attacks, "set of seen attacks")
        return list(attacks)

    def target(self, name: str | None = None) -> Recipe:
        """An undefended classifier.

        name: one of the profile's, a ready-made one, or a method that trains one; None or "target": the data
            set's own.  ValueError for another, with the choices.
        """
        name = self.spec.target if name in (None, "target") else name
        name = self.spec.targets.get(name, name)
        if name in self.spec.methods:
            return self.defense(name).part("target")
        known = source.ready_made()
        if name not in known:
            choices = ", ".join({**self.spec.methods, **self.spec.targets, **known})
            raise ValueError(f"unknown target or method: {name!r}; choose one of {choices}")
        file, _ = known[name]
        content = {"content": _content(ROOT / "data" / "zoo" / file)} if file else {}
        return Recipe({"ready_made": name, **content}, {**self.place, "target": name})

    def defense(
        self,
        name: str,
        *,
        seen: Seen = (),
        target: str | None = None,
        wanted: str | None = None,
        **changes: Any,
    ) -> Recipe:
        """A method of the profile, trained; all as in `Experiment.defense`, but a Recipe for a network."""
        spec = profiles.choose(self.spec.methods, name, f"method of paper {self.place['paper']}")
        attacks = self.seen(seen)
        asked = {**self.place, "defense": name, "seen": attacks, "target": target, "wanted": wanted}
        asked["changes"] = {key: c.asked if isinstance(c, Recipe) else c for key, c in changes.items()}
        budget = {key: changes.pop(key, getattr(spec, key)) for key in ("epochs", "batch_size")}

        definition = source.method(spec.method)
        takes_target = "target" in source.signature(definition)
        if target and not (takes_target or attacks or wanted):
            raise ValueError(f"{name} is trained with no target: leave target={target!r} out")
        guide = target or spec.modules.get("target") or "target"
        networks = spec.modules | ({"target": guide} if takes_target else {})
        networks |= {key: c for key, c in changes.items() if key in MODULES or isinstance(c, Recipe)}
        settings = {key: c for key, c in changes.items() if key not in networks}
        # What the method only hands on holds for what it begins with, too: DIR's masks for its pre-training.
        handed_on = {key: c for key, c in settings.items() if key not in source.parameters(definition)}
        parts = {
            keyword: self._network(request, guide, handed_on)
            for keyword, request in networks.items()
            if request is not None
        }
        settings = _complete(definition, spec.settings | settings, f"method {name}", networks, COUNTED)
        if attacks or wanted:
            victim = parts.get("target") or self.target(guide)
            parts["seen"] = [self.attack(one, victim, split="train") for one in attacks]
            parts |= {"wanted": self.attack(wanted, victim, split="train")} if wanted else {}
        made = {"method": spec.method, "settings": settings, "inner": _inner(settings)}
        made |= {
            "revisions": source.revisions(*_definitions(made)),
            **{key: [p.made for p in part] if key == "seen" else part.made for key, part in parts.items()},
            "images": self.images("train"),
            "seed": self.seed,
            "precision": self.profile.precision,
            **budget,
        }
        return Recipe(made, {key: value for key, value in asked.items() if value}, parts)

    def attack(
        self, name: str, victim: Recipe | None, *, split: str = "test", n: int | None = None, **changes: Any
    ) -> Recipe:
        """Adversarial images; all as in `Experiment.attack`, but victim, what is attacked, is a Recipe.

        It is None for a network without one.
        """
        spec = self.spec.attacks.get(name) or self._unlisted(name)
        definition = source.attack(spec.attack)
        settings = _complete(definition, spec.settings | changes, f"attack {name}", (), GIVEN)
        images = self.images(split)
        if split == "test" and n is None:
            bare = victim is not None and victim.bare
            n = spec.test or (self.spec.test if bare else self.spec.adaptive_test)
        there = [limit for limit in (n, images["n"]) if limit is not None]
        made = {
            "attack": spec.attack,
            "revisions": source.revisions(definition),
            "targeted": spec.targeted,
            "settings": settings,
            "victim": victim.made if victim is not None else None,
            "images": images,
            "n": min(there, default=None),
            "seed": self.seed,
        }
        if split == "train" and "eps" in settings and self.profile.precision != "fp32":
            # In a ball of fixed size bf16 finds as much; attacks that look for the smallest change do not.
            made["precision"] = self.profile.precision
        if "mask" in settings:
            made["stickers"] = _stickers(self.dataset)
        if settings.get("references"):  # the first thousand images of a split
            references = self.images(settings["references"])
            made["references"] = references | {"n": min(references["n"] or 1000, 1000)}
        asked = {**self.place, "attack": name, "split": split, "n": made["n"], "changes": changes}
        asked |= {"victim": victim.asked} if victim is not None else {}
        parts = {"victim": victim} if victim is not None else {}
        return Recipe(made, {key: value for key, value in asked.items() if value}, parts)

    def _network(self, request, guide, handed_on):
        """The recipe of a network that a method is made with.

        request: its recipe; the name of a target; or {"defense": name, ...}, trained for the same target.
        """
        if isinstance(request, Recipe):
            return request
        if isinstance(request, str):
            return self.target(request)
        keywords = {"target": guide} | request | handed_on
        return self.defense(keywords.pop("defense"), **keywords)

    def _unlisted(self, name):
        """The entry of a registered attack that the profile does not list; an ε that it lacks is PGD's."""
        if name not in source.attacks():
            choices = ", ".join(dict.fromkeys([*self.spec.attacks, *source.attacks()]))
            paper = self.place["paper"]
            raise ValueError(f"unknown attack of paper {paper}: {name!r}; choose one of {choices}")
        lacks_eps = source.signature(source.attack(name)).get("eps") is source.REQUIRED
        pgd = self.spec.attacks.get("pgd")
        settings = {"eps": pgd.settings["eps"]} if lacks_eps and pgd else {}
        return profiles.AttackSpec(attack=name, settings=settings)


def row_of(entry: str | dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """An entry of a grid of defenses: its row in the table, the defense's name, and the keywords for it."""
    if isinstance(entry, str):
        return entry, entry, {}
    if "defense" in entry:
        keywords = {key: value for key, value in entry.items() if key not in ("row", "defense")}
        return entry.get("row", entry["defense"]), entry["defense"], keywords
    ((method, seen),) = entry.items()
    return f"{method}_{seen}", method, {"seen": seen}


def again(asked: dict[str, Any], profile: str) -> Recipe:
    """The recipe of what was asked for (`Recipe.asked`) under `profile`, whichever it was asked under.

    ValueError for names that this profile does not have.
    """
    return _again(json.dumps(asked, sort_keys=True), profile)


@cache  # the same targets stand in hundreds of questions
def _again(text, profile):
    asked = json.loads(text)
    if "part" in asked:
        return again(asked["of"], profile).part(asked["part"])
    if "then" in asked:
        denoiser, target = (again(one, profile) for one in asked["then"])
        return denoiser.then(target)
    if "threat" in asked:
        settings = {k: again(s, profile) if isinstance(s, dict) else s for k, s in asked["settings"].items()}
        return again(asked["of"], profile).under(asked["threat"], **settings)
    recipes = Recipes(asked["paper"], asked["dataset"], profile, asked.get("seed", 0))
    changes = {k: again(c, profile) if is_request(c) else c for k, c in asked.get("changes", {}).items()}
    if "defense" in asked:
        keywords = {key: asked[key] for key in ("seen", "target", "wanted") if key in asked}
        return recipes.defense(asked["defense"], **keywords, **changes)
    if "attack" in asked:
        keywords = {key: asked[key] for key in ("split", "n") if key in asked}
        return recipes.attack(asked["attack"], again(asked["victim"], profile), **keywords, **changes)
    return recipes.target(asked["target"])


def artifacts(asked: list[dict[str, Any]], profile: str) -> dict[str, Recipe]:
    """{key: recipe} of all trained methods and adversarial sets behind what is asked for, by its name.

    What `profile` does not have is left out: no notebook asks for it there.
    """
    found, waiting = {}, []
    for one in asked:
        with suppress(ValueError):
            waiting.append(again(one, profile))
    while waiting:
        recipe = waiting.pop()
        if "method" in recipe.made or "attack" in recipe.made:
            found[recipe.key] = recipe
        for part in recipe.parts.values():
            waiting += part if isinstance(part, list) else [part]
    return found


def is_request(value: Any) -> bool:
    """Whether a setting is a network of the lab, as it was asked for."""
    return isinstance(value, dict) and ("paper" in value or "of" in value or "then" in value)


def code_of(made: dict[str, Any]) -> dict[str, str]:
    """Fingerprint of the code that makes something, {qualified name: hash}, what it is made from included."""
    return source.fingerprint(*_definitions(made))


def _definitions(made):
    """Definitions of all methods, attacks, networks and threats that something is made from."""
    finders = {
        "method": source.method,
        "attack": source.attack,
        "network": source.network,
        "ready_made": lambda name: source.ready_made()[name][1],
        "threat": lambda name: source.find("helpers.threats", name),
    }
    found, open_ends = {}, [made]
    while open_ends:
        one = open_ends.pop()
        if isinstance(one, dict):
            names = {key: one[key] for key in finders if isinstance(one.get(key), str)}
            if "settings" not in one:
                names.pop("method", None)  # that of an attack, such as FWA's "frank_wolfe"
            found |= {(key, name): name for key, name in names.items()}
        open_ends += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    definitions = [finders[key](name) for key, name in sorted(found)]
    if any(key == "method" for key, _ in found):
        definitions.append(source.find("helpers.training", "fit"))
    return definitions


def _complete(definition, given, what, networks, apart):
    """`given` with all that it leaves to a default.

    networks: keywords that are given as networks.
    apart: keywords that come from elsewhere, and are no settings.
    """
    taken = {name: value for name, value in source.signature(definition).items() if name not in apart}
    for name in [*given, *networks]:
        if name not in taken:
            raise ValueError(f"{what} has no setting {name!r}; it has {', '.join(taken)}")
    settings = {name: value for name, value in (taken | given).items() if name not in networks}
    missing = [name for name, value in settings.items() if value is source.REQUIRED]
    if missing:
        raise ValueError(f"{what} has no default for {', '.join(missing)}: give a value")
    return settings


def _inner(settings):
    """Attacks that a method makes in training, {its setting: their name and complete settings}."""
    names = {"attack_settings": settings.get("attack", "pgd"), "full": "pgd"}
    found = {}
    for setting, attack in names.items():
        if settings.get(setting) is not None:
            complete = _complete(source.attack(attack), settings[setting], f"{setting} ({attack})", (), GIVEN)
            found[setting] = {"attack": attack, "settings": complete}
    return found


def _stickers(dataset):
    """Which sticker masks there are: the user's, or our own."""
    from helpers.attacks import stickers  # here because it loads torch, and few attacks have a mask
    from helpers.data import DATASETS

    return stickers.origin(DATASETS[dataset].shape[-1])


@cache
def _content(file: Path):
    """Twelve hexadecimal digits that change with a file; "" where it is missing."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.exists() else ""


def _plain(value):
    """`value` as a key takes it: what is equal is written alike, 1.0 as 1 and a tuple as a list."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
