"""Recipes: from names to complete settings to keys, without torch.

A `Recipe` says what something is made from, down to every default and revision, and how it was asked for.  Targets,
defenses, threats on them and adversarial sets all have one, so that whatever is attacked is known by its recipe.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from helpers import source
from helpers.lab import profiles

# Part of every key.  Raise it when an artifact comes to hold something else for the same recipe.
FORMAT = 2

# Keyword arguments of a method that come from the experiment, not from the profile.
COUNTED = ("seen", "images")


@dataclass(frozen=True)
class Recipe:
    """What something is made from.

    made: everything that determines it, serialisable as JSON; its key is a hash of this.
    asked: the names by which it was asked for; `helpers.lab.again` understands them.
    parts: the recipes it is made from, by their role.
    """

    made: dict[str, Any]
    asked: dict[str, Any] = field(compare=False)
    parts: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits."""
        text = json.dumps([FORMAT, self.made], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def bare(self) -> bool:
        """Whether it is a classifier and nothing before it."""
        return "ready_made" in self.made or self.made.get("part") == "target"

    def part(self, name: str) -> "Recipe":
        """Recipe of a network that this method has trained: its "target" or its "denoiser"."""
        return Recipe({"part": name, "of": self.made}, {"part": name, "of": self.asked}, {"of": self})

    def then(self, target: "Recipe") -> "Recipe":
        """Recipe of target ∘ denoiser, this being the denoiser's."""
        made = {"denoiser": self.made, "target": target.made}
        return Recipe(made, {"then": [self.asked, target.asked]}, {"denoiser": self, "target": target})

    def under(self, threat: str, **settings: Any) -> "Recipe":
        """Recipe of what an attacker attacks in place of this; settings of the threat may be recipes themselves."""
        plain = {name: s.made if isinstance(s, Recipe) else s for name, s in settings.items()}
        names = {name: s.asked if isinstance(s, Recipe) else s for name, s in settings.items()}
        return Recipe(
            {"threat": threat, **plain, "of": self.made},
            {"threat": threat, "settings": names, "of": self.asked},
            {"of": self},
        )


class Recipes:
    """All recipes of one paper's experiments on one data set, under one profile and seed.

    stickers: whose sticker masks are used, where attacks are made under a mask.
    ValueError for names that do not exist, with the choices.
    """

    def __init__(self, paper: str, dataset: str, profile: str, seed: int, stickers: str = ""):
        self.profile = profiles.profile(profile)
        specs = profiles.load(paper, profile)
        self.spec = profiles.choose(specs, dataset, f"data set of paper {paper} in profile {profile}")
        self.dataset, self.seed, self.stickers = dataset, seed, stickers
        self.place = {"paper": paper, "dataset": dataset, "seed": seed}
        self.source = self.spec.source or self.profile.source

    def images(self, split: str) -> dict:
        """What natural images are: of which data set, how many, from where."""
        limit = self.spec.train if split == "train" else self.spec.test
        return {"name": self.dataset, "split": split, "n": limit, "source": self.source}

    def seen(self, attacks) -> list[str]:
        """Names of attacks; a string is the profile's name for a set of them."""
        if isinstance(attacks, str):
            return profiles.choose(self.spec.seen, attacks, "set of seen attacks")
        return list(attacks)

    def target(self, name: str | None = None) -> Recipe:
        """An undefended classifier: None or "target" for the data set's own, a name of the profile, or a ready-made one."""
        name = self.spec.target if name in (None, "target") else name
        name = self.spec.targets.get(name, name)
        if name in self.spec.methods:
            return self.defense(name).part("target")
        return Recipe({"ready_made": name}, {**self.place, "target": name})

    def defense(self, name: str, *, seen=(), target=None, wanted=None, **changes: Any) -> Recipe:
        """A method of the profile, trained.

        seen: attacks on the target whose examples it is trained on.
        target: the classifier that it is trained with, by name.
        wanted: the attack whose examples it should generate instead of natural ones (ADD, Appendix G.3).
        changes: settings of the method, or its epochs and batch_size; a Recipe for a network.
        """
        spec = profiles.choose(self.spec.methods, name, f"method of paper {self.place['paper']}")
        definition = source.method(spec.method)
        defaults, attacks = source.defaults(definition), self.seen(seen)
        budget = {key: changes.pop(key, getattr(spec, key)) for key in ("epochs", "batch_size")}
        asked = {**self.place, "defense": name, "seen": attacks, "target": target, "wanted": wanted}
        asked["changes"] = {key: c.asked if isinstance(c, Recipe) else c for key, c in changes.items()}
        networks = {"target": target or "target"} if "target" in defaults else {}
        networks |= spec.modules | ({"target": target} if target and "target" in defaults else {})
        networks |= {
            key: change for key, change in changes.items() if key in networks or isinstance(change, Recipe)
        }
        inherited = {
            k: c for k, c in changes.items() if k not in source.parameters(definition) | set(networks)
        }
        parts = {}
        for keyword, request in networks.items():
            if isinstance(request, dict):  # of another method: for the same target, with the same network
                other = dict(request)
                request = self.defense(other.pop("defense"), **{"target": target} | other, **inherited)
            elif isinstance(request, str):
                request = self.target(request)
            if request is not None:
                parts[keyword] = request
        given = spec.settings | {key: c for key, c in changes.items() if key not in networks}
        settings = _complete(definition, given, f"method {name}")
        settings = {key: value for key, value in settings.items() if key not in (*networks, *COUNTED)}
        victim = self.target(networks.get("target", target))
        sets = [self.attack(one, victim, split="train") for one in attacks]
        parts |= {"seen": sets} if sets else {}
        parts |= {"wanted": self.attack(wanted, victim, split="train")} if wanted else {}
        made = {
            "method": spec.method,
            "revision": source.revision(definition),
            "settings": settings,
            "inner": {a: source.revision(source.attack(a)) for a in _inner(settings).values()},
            **{key: [p.made for p in part] if key == "seen" else part.made for key, part in parts.items()},
            "images": self.images("train"),
            "seed": self.seed,
            "precision": self.profile.precision,
            **budget,
        }
        return Recipe(made, {key: value for key, value in asked.items() if value}, parts)

    def attack(self, name: str, victim: Recipe | None, *, split="test", n=None, **changes: Any) -> Recipe:
        """Adversarial images for the first `n` images of `split`, made for `victim` (None: a network without a recipe).

        n: by default the attack's `test`, else the profile's `test` for a bare target and `adaptive_test` for a
            pipeline; all images of the training split.
        changes: settings of the attack.
        """
        spec = profiles.choose(self.spec.attacks, name, f"attack of paper {self.place['paper']}")
        definition = source.attack(spec.attack)
        settings = _complete(definition, spec.settings | changes, f"attack {name}")
        settings.pop("seed", None)
        if split == "test" and n is None:
            n = spec.test or (
                self.spec.test if victim is not None and victim.bare else self.spec.adaptive_test
            )
        made = {
            "attack": spec.attack,
            "revision": source.revision(definition),
            "targeted": spec.targeted,
            "settings": settings,
            "victim": victim.made if victim is not None else None,
            "images": self.images(split),
            "n": n,
            "seed": self.seed,
        }
        made |= {"stickers": self.stickers} if "mask" in settings else {}
        asked = {**self.place, "attack": name, "split": split, "n": n, "changes": changes}
        asked |= {"victim": victim.asked} if victim is not None else {}
        return Recipe(
            made, {k: v for k, v in asked.items() if v}, {"victim": victim} if victim is not None else {}
        )


def code_of(made: dict) -> dict[str, str]:
    """Fingerprint of the code that makes a method or an adversarial set, {qualified name: hash}."""
    settings = made["settings"]
    if "attack" in made:
        return source.fingerprint(source.attack(made["attack"]))
    used = [source.method(made["method"])]
    if "network" in settings:
        used.append(source.network(settings["network"]))
    if isinstance(settings.get("attack"), str):
        used.append(source.attack(settings["attack"]))
    return source.fingerprint(*used)


def _complete(definition, given, what):
    """`given` with all that it leaves to a default, the settings of attacks inside of it included."""
    taken = source.signature(definition)
    for name in given:
        if name not in taken:
            raise ValueError(f"{what} has no setting {name!r}; it has {', '.join(taken)}")
    settings = source.defaults(definition) | given
    for name, attack in _inner(settings).items():
        inner = source.defaults(source.attack(attack)) | settings[name]
        inner.pop("seed", None)  # drawn anew in each step
        settings[name] = inner
    return settings


def _inner(settings):
    """Attacks that a method makes in training, {the setting with their settings: their name}."""
    names = {"attack_settings": settings.get("attack", "pgd"), "full": "pgd"}
    return {setting: attack for setting, attack in names.items() if settings.get(setting) is not None}
