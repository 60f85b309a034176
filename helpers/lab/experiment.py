"""One paper's experiments on one data set: every expensive thing as one call."""

import json
import os
from typing import Any

from torch import Tensor, nn

from helpers.attacks import stickers
from helpers.data import DATASETS
from helpers.lab import make, profiles
from helpers.lab.recipes import Recipe, Recipes
from helpers.threats import Defended, made_from


class Defense(Defended):
    """A handle: the pipeline target ∘ denoiser, images (N,C,H,W) in [0,1] -> logits (N,K), that knows its making.

    target, denoiser: its parts, in eval mode and frozen; the denoiser is an identity where there is none.
    name: that of its method, or of its target.
    settings: complete, of the method; empty for another target.
    """

    def __init__(self, target: nn.Module, denoiser: nn.Module, name: str, method: Recipe | None = None):
        super().__init__(target, denoiser)
        self.name, self.method = name, method
        self.settings = dict(method.made["settings"]) if method else {}
        self.eval()

    @property
    def history(self) -> list[dict]:
        """Mean losses of each epoch of the training, one dict an epoch; empty for another target."""
        return make.history(self.method) if self.method else []


class Experiment:
    """One paper's experiments on one data set, under one profile and seed.

    paper: "add", "arn", "jatp" or "dir".
    dataset: one that the profile has for the paper.
    profile: "quick", "standard" or "paper".
    seed: seeds the training and every attack.
    ValueError for names that do not exist, with the choices.
    """

    def __init__(self, paper: str = "arn", dataset: str = "mnist", profile: str = "quick", seed: int = 0):
        self.paper, self.dataset, self.profile, self.seed = paper, dataset, profile, seed
        self.recipes = Recipes(paper, dataset, profile, seed)
        if any("mask" in attack.settings for attack in self.recipes.spec.attacks.values()):
            self.recipes.stickers = stickers.origin(DATASETS[dataset].shape[-1])
        words = self.recipes.profile
        self.notice, self.deviation, self.comparable = words.notice, words.deviation, words.comparable

    def __repr__(self):
        return f"Experiment({self.paper!r}, {self.dataset!r}, {self.profile!r}, seed={self.seed})"

    @property
    def seen(self) -> dict[str, tuple[str, ...]]:
        """Sets of attacks that denoisers are trained on, under the paper's names for them."""
        return {name: tuple(attacks) for name, attacks in self.recipes.spec.seen.items()}

    def grid(self, name: str) -> list:
        """What the table or ablation `name` runs through at this scale, from the profile."""
        return list(profiles.choose(self.recipes.spec.grids, name, f"grid of {self}"))

    def defenses(self, grid: str) -> dict[str, Defense]:
        """The defenses of a grid, by their names in the ledger ("none", "at_pgd", "arn_pp").

        An entry of the grid is a name, {method: set of seen attacks}, or {row: name, defense: method, ...} with
        keywords of `defense`.
        """
        found = {}
        for entry in self.grid(grid):
            if isinstance(entry, str):
                found[entry] = self.defense(entry)
            elif "defense" in entry:
                keywords = {key: value for key, value in entry.items() if key not in ("row", "defense")}
                found[entry.get("row", entry["defense"])] = self.defense(entry["defense"], **keywords)
            else:
                ((method, seen),) = entry.items()
                found[f"{method}_{seen}"] = self.defense(method, seen=seen)
        return found

    def images(self, split: str = "test", n: int | None = None) -> tuple[Tensor, Tensor]:
        """Natural images (N,C,H,W) in [0,1] and labels (N,), on the device; the first n of the profile's."""
        x, y = make.natural(**self.recipes.images(split))
        return x[:n], y[:n]

    def targets(self, split: str = "test") -> Tensor:
        """Labels that targeted attacks aim at, never the true ones; (N,) on the device."""
        return make.targets_of(self.recipes.images(split), self.seed)

    def target(self, name: str | None = None) -> nn.Module:
        """An undefended classifier, in eval mode and frozen; by default the data set's.

        name: one of the profile's `targets`, a ready-made one, or a method that trains a classifier.
        """
        return make.network(self.recipes.target(name))

    def defense(
        self, name: str, *, seen=(), target: str | None = None, wanted: str | None = None, **changes: Any
    ):
        """A trained defense, target ∘ denoiser; a `Defense`.

        name: a method of the profile, "none" for the bare target, or another target, such as "at_pgd".
        seen: the attacks on the target that it is trained on, a tuple of names or the profile's name for a set.
        target: the classifier that a denoiser is trained with, by name; the data set's by default.
        wanted: the attack whose examples it should generate instead of natural ones (ADD, Appendix G.3).
        changes: settings of the method (`without=["nor"]`), its `epochs` or `batch_size`, or networks of the lab that
            it is trained with (`behind=other.denoiser`).
        """
        spec = self.recipes.spec
        if name == "none" or name in spec.targets or name not in spec.methods:
            if changes or seen or wanted or (name != "none" and target):
                raise ValueError(f"{name!r} is a ready-made target: nothing can be changed about it")
            return Defense(self.target(target if name == "none" else name), nn.Identity(), name)
        changes = {key: self._recipe(key, c) if isinstance(c, nn.Module) else c for key, c in changes.items()}
        recipe = self.recipes.defense(name, seen=seen, target=target, wanted=wanted, **changes)
        _note(recipe)
        pipeline = make.defended(recipe)
        return Defense(pipeline.target, pipeline.denoiser, name, recipe)

    def attack(self, name: str, model: nn.Module, *, split="test", n=None, keep="", **changes: Any) -> Tensor:
        """Adversarial images for the first images of `split`, in the order of `images`; (n,C,H,W) on the device.

        name: an attack of the profile, such as "pgd".  Targeted attacks aim at `targets()`.
        model: what is attacked: a handle, a target, or what a threat model of `helpers.threats` makes of them.  The
            result is kept under the key of the model's recipe.
        n: by default the attack's `test` in the profile, else the profile's `test` for a bare target and
            `adaptive_test` for a pipeline.
        keep: for a model of your own, which has no recipe: a name to keep the result under, else it is not kept.
        changes: settings of the attack, e.g. `eps=0.4`.
        """
        victim = made_from(model)
        if keep and victim is not None:
            raise ValueError(
                f"keep={keep!r}: the model is the lab's, and kept under its own recipe; leave `keep` out"
            )
        recipe = self.recipes.attack(name, victim, split=split, n=n, **changes)
        if victim is not None:
            _note(recipe)
        return make.adversarial(recipe, model, keep)

    def attack_settings(self, name: str) -> dict:
        """Complete settings of an attack of the profile (eps, steps, ...)."""
        return dict(self.recipes.attack(name, None).made["settings"])

    def _recipe(self, keyword, module):
        recipe = made_from(module)
        if recipe is None:
            raise ValueError(
                f"{keyword}: only networks of the lab have a recipe, this is a {type(module).__name__}"
            )
        return recipe


def again(asked: dict, profile: str) -> nn.Module | Tensor:
    """What was asked for (a recipe's `asked`), made or loaded under `profile`."""
    if "part" in asked:
        return getattr(again(asked["of"], profile), asked["part"])
    if "then" in asked:
        denoiser, target = (again(one, profile) for one in asked["then"])
        return Defended(target, denoiser)
    if "threat" in asked:
        from helpers import threats

        settings = {k: again(s, profile) if isinstance(s, dict) else s for k, s in asked["settings"].items()}
        return getattr(threats, asked["threat"])(again(asked["of"], profile), **settings)
    lab = Experiment(asked["paper"], asked["dataset"], profile, asked.get("seed", 0))
    changes = {k: again(c, profile) if _is_request(c) else c for k, c in asked.get("changes", {}).items()}
    if "defense" in asked:
        keywords = {key: asked[key] for key in ("seen", "target", "wanted") if key in asked}
        return lab.defense(asked["defense"], **keywords, **changes)
    if "attack" in asked:
        keywords = {key: asked[key] for key in ("split", "n") if key in asked}
        return lab.attack(asked["attack"], again(asked["victim"], profile), **keywords, **changes)
    return lab.target(asked["target"])


def _is_request(value):
    return isinstance(value, dict) and ("paper" in value or "of" in value or "then" in value)


def _note(recipe):
    """Write down what was asked for, if $NEEDS_FILE says where: so it is known what a notebook needs."""
    if file := os.environ.get("NEEDS_FILE"):
        with open(file, "a", encoding="utf-8") as notes:
            notes.write(json.dumps(recipe.asked, sort_keys=True) + "\n")
