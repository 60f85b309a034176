"""One paper's experiments on one data set: every expensive thing as one call."""

import json
import os
from typing import Any

from torch import Tensor, nn

from helpers import threats
from helpers.lab import make, profiles
from helpers.lab.recipes import Recipe, Recipes, Seen, is_request, row_of
from helpers.threats import Defended, made_from


class Defense(Defended):
    """A handle: the pipeline target ∘ denoiser, which knows what it was made from.

    Images (N,C,H,W) in [0,1] -> logits (N,K).

    target, denoiser: its parts, in eval mode and frozen; the denoiser is an identity where there is none.
    name: that of its method, or of its target.
    method: the recipe of its training; None for another target.
    """

    def __init__(
        self, target: nn.Module, denoiser: nn.Module, name: str, method: Recipe | None = None
    ) -> None:
        super().__init__(target, denoiser)
        self.name, self.method = name, method
        self.eval()

    @property
    def settings(self) -> dict[str, Any]:
        """Complete settings of the method; empty for another target."""
        return dict(self.method.made["settings"]) if self.method else {}

    @property
    def history(self) -> list[dict[str, float]]:
        """Mean losses of each epoch of the training, one dict an epoch; empty for another target."""
        return make.history(self.method) if self.method else []


class Experiment:
    """One paper's experiments on one data set, under one profile and seed.

    paper: "add", "arn", "jatp" or "dir".
    dataset: one that the profile has for the paper.
    profile: a name of `helpers/lab/profiles.yaml`, such as "quick".
    seed: seeds the training and every attack.
    ValueError for names that do not exist, with the choices.
    """

    def __init__(
        self, paper: str = "arn", dataset: str = "mnist", profile: str = "quick", seed: int = 0
    ) -> None:
        self.paper, self.dataset, self.profile, self.seed = paper, dataset, profile, seed
        self.recipes = Recipes(paper, dataset, profile, seed)
        words = self.recipes.profile
        spec, self.notice = self.recipes.spec, words.notice
        self.deviation = words.deviation if spec.deviation is None else spec.deviation
        self.comparable = words.comparable if spec.comparable is None else spec.comparable

    def __repr__(self) -> str:
        return f"Experiment({self.paper!r}, {self.dataset!r}, {self.profile!r}, seed={self.seed})"

    @property
    def seen(self) -> dict[str, tuple[str, ...]]:
        """Sets of attacks that denoisers are trained on, under the paper's names for them."""
        return {name: tuple(attacks) for name, attacks in self.recipes.spec.seen.items()}

    def grid(self, name: str) -> list:
        """What the table or ablation `name` runs through at this scale, from the profile."""
        return list(profiles.choose(self.recipes.spec.grids, name, f"grid of {self}"))

    def size(self, name: str) -> int:
        """A number that grows with the scale, such as the "votes" of a smoothed classifier."""
        return profiles.choose(self.recipes.spec.sizes, name, f"size of {self}")

    def defenses(self, grid: str) -> dict[str, Defense]:
        """The defenses of a grid, by their names in the ledger ("none", "at_pgd", "arn_pp").

        An entry of the grid is a name; {method: set of seen attacks}; or {row: name, defense: method, ...}
        with keywords of `defense`.
        """
        found = {}
        for entry in self.grid(grid):
            row, name, keywords = row_of(entry)
            found[row] = self.defense(name, **keywords)
        return found

    def images(self, split: str = "test", n: int | None = None) -> tuple[Tensor, Tensor]:
        """Natural images (N,C,H,W) in [0,1] and labels (N,), on the device; the first n of the profile's."""
        x, y = make.natural(self.recipes.images(split))
        return x[:n], y[:n]

    def targets(self, split: str = "test") -> Tensor:
        """Labels that targeted attacks aim at, never the true ones; (N,) on the device."""
        return make.targets_of(self.recipes.images(split), self.seed)

    def target(self, name: str | None = None) -> nn.Module:
        """An undefended classifier, in eval mode and frozen; by default the data set's.

        name: one of the profile's `targets`, a ready-made one, or a method that trains a classifier.
        """
        recipe = self.recipes.target(name)
        if "part" in recipe.made:
            _note(recipe)
        return make.network(recipe)

    def defense(
        self,
        name: str,
        *,
        seen: Seen = (),
        target: str | None = None,
        wanted: str | None = None,
        **changes: Any,
    ) -> Defense:
        """A trained defense, target ∘ denoiser.

        name: a method of the profile, "none" for the bare target, or another target, such as "at_pgd".
        seen: the attacks on the target that it is trained on, names or the profile's name for a set.
        target: the classifier that a denoiser is trained with, by name; the data set's by default.
        wanted: the attack whose examples it should generate instead of natural ones (ADD, Appendix G.3).
        changes: settings of the method (`without=["nor"]`), its `epochs` or `batch_size`, or networks of the
            lab that it is trained with (`behind=other.denoiser`).
        ValueError for names and settings that do not exist.
        """
        spec = self.recipes.spec
        if name == "none" or name in spec.targets or name not in spec.methods:
            bare = self.target(target if name == "none" else name)
            if changes or seen or wanted or (name != "none" and target):
                raise ValueError(f"{name!r} is a ready-made target: nothing can be changed about it")
            return Defense(bare, nn.Identity(), name)
        changes = {key: _recipe(key, c) if isinstance(c, nn.Module) else c for key, c in changes.items()}
        recipe = self.recipes.defense(name, seen=seen, target=target, wanted=wanted, **changes)
        _note(recipe)
        pipeline = make.defended(recipe)
        behind = self.target(target) if pipeline.target is None else pipeline.target
        return Defense(behind, pipeline.denoiser, name, recipe)

    def attack(
        self,
        name: str,
        model: nn.Module,
        *,
        split: str = "test",
        n: int | None = None,
        keep: str = "",
        **changes: Any,
    ) -> Tensor:
        """Adversarial images (n,C,H,W), on the device, for the first of `split` in the order of `images`.

        name: an attack of the profile, such as "pgd", or any other that is registered, with its own defaults
            and the ε of the profile's "pgd" where it has none. Targeted attacks aim at `targets()`.
        model: what is attacked: a handle, a target, or what a threat model of `helpers.threats` makes of
            them. The result is kept under the key of the model's recipe.
        n: by default all of the training split; of the test split the attack's `test` in the profile, else
            the profile's `test` for a bare target and `adaptive_test` for a pipeline.
        keep: for a model of your own, which has no recipe: a name to keep the result under, else it is not
            kept.
        changes: settings of the attack, e.g. `eps=0.4`.
        ValueError for names and settings that do not exist, and for a changed copy of the lab's networks.
        """
        victim = made_from(model)
        if keep and victim is not None:
            raise ValueError(
                f"keep={keep!r}: the model is the lab's, and kept under its own recipe: leave it out"
            )
        recipe = self.recipes.attack(name, victim, split=split, n=n, **changes)
        if victim is not None:
            _check_originals(model)
            _note(recipe)
        return make.adversarial(recipe, model, keep)

    def attack_settings(self, name: str) -> dict[str, Any]:
        """Complete settings of an attack of the profile (eps, steps, ...)."""
        return dict(self.recipes.attack(name, None).made["settings"])


def again(asked: dict[str, Any], profile: str) -> nn.Module | Tensor:
    """What was asked for (a recipe's `asked`), made or loaded under `profile`."""
    if "part" in asked:
        return getattr(again(asked["of"], profile), asked["part"])
    if "then" in asked:
        denoiser, target = (again(one, profile) for one in asked["then"])
        return Defended(target, denoiser)
    if "threat" in asked:
        settings = {k: again(s, profile) if isinstance(s, dict) else s for k, s in asked["settings"].items()}
        model = again(asked["of"], profile)
        if not isinstance(model, Defended):  # a bare target: BPDA wants a denoiser
            model = Defended(model, nn.Identity())
        return getattr(threats, asked["threat"])(model, **settings)
    lab = Experiment(asked["paper"], asked["dataset"], profile, asked.get("seed", 0))
    changes = {k: again(c, profile) if is_request(c) else c for k, c in asked.get("changes", {}).items()}
    if "defense" in asked:
        keywords = {key: asked[key] for key in ("seen", "target", "wanted") if key in asked}
        return lab.defense(asked["defense"], **keywords, **changes)
    if "attack" in asked:
        keywords = {key: asked[key] for key in ("split", "n") if key in asked}
        victim = again(asked["victim"], profile)
        settings = lab.recipes.attack(asked["attack"], None, **changes).made["settings"]
        in_pipeline = str(settings.get("layer")).startswith("target.")
        if in_pipeline and not isinstance(victim, Defended):
            victim = Defended(victim, nn.Identity())
        return lab.attack(asked["attack"], victim, **keywords, **changes)
    return lab.target(asked["target"])


def _recipe(keyword, module):
    recipe = made_from(module)
    if recipe is None:
        kind = type(module).__name__
        raise ValueError(f"{keyword}: only networks of the lab have a recipe, not a {kind} of your own")
    return recipe


def _check_originals(model):
    """ValueError for a copy of one of the lab's networks: changed or not, its recipe came along."""
    for module in model.modules():
        recipe = vars(module).get("recipe")
        if recipe is not None and make.network(recipe) is not module:
            raise ValueError(
                f"this {type(module).__name__} is a copy of a network of the lab: if it was changed, remove"
                " its `recipe` (del copy.recipe), and it counts as your own"
            )


def _note(recipe):
    """Write down what was asked for, if $NEEDS_FILE says where: so it is known what a notebook needs."""
    if file := os.environ.get("NEEDS_FILE"):
        with open(file, "a", encoding="utf-8") as notes:
            notes.write(json.dumps(recipe.asked, sort_keys=True) + "\n")
