"""Every attack of the suite on the same few images, and what each one costs (notebook 01)."""

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

from torch import Tensor, nn

from helpers import device, source
from helpers.attacks import ATTACKS, draws, num_classes, random_targets, stickers
from helpers.lab import artifacts
from helpers.lab.recipes import Recipe
from helpers.threats import made_from

EPS = 0.2  # ℓ∞ radius of all attacks that have one


@dataclass(frozen=True)
class Entry:
    """One line of the gallery.

    knows: what the attacker must have of the model.  changes: what may happen to the image.
    settings: of the attack, beyond the defaults.  targeted: towards random other classes.
    """

    knows: str
    changes: str
    settings: dict = field(default_factory=dict)
    targeted: bool = False


class Shown(NamedTuple):
    """What one attack made.

    images: (N,C,H,W).  passes: through the model, per image; gradients are not counted apart.
    seconds: it took when it was made.
    """

    images: Tensor
    passes: float
    seconds: float


BALL = f"every pixel, by at most {EPS}"
NEAREST = "as little as possible (ℓ2)"

SUITE = {
    "fgsm": Entry("gradient", BALL, {"eps": EPS}),
    "pgd": Entry("gradient", BALL, {"eps": EPS}),
    "pgd_dlr": Entry("gradient", BALL, {"eps": EPS}),
    "mi_fgsm": Entry("gradient", BALL, {"eps": EPS}),
    "vni_fgsm": Entry("gradient", BALL, {"eps": EPS, "samples": 5}),
    "ti_bim": Entry("gradient", BALL, {"eps": EPS, "kernel_size": 5}),
    "apgd_ce": Entry("gradient", BALL, {"eps": EPS}),
    "apgd_dlr": Entry("gradient", BALL, {"eps": EPS}),
    "aa": Entry("gradient", BALL, {"eps": EPS}),
    "ensemble": Entry("gradient, then scores", BALL, {"eps": EPS}),
    "feature_pgd": Entry("a hidden layer", BALL, {"eps": EPS, "steps": 40, "layer": "conv2"}),
    "square": Entry("scores", BALL, {"eps": EPS, "queries": 1000}),
    "fab": Entry("gradient", "as little as possible (ℓ∞)", {"eps": 1.0}),
    "cw": Entry(
        "gradient", NEAREST, {"steps": 100, "search_steps": 3, "learning_rate": 0.1, "initial_const": 1.0}
    ),
    "ddn": Entry("gradient", NEAREST, {"steps": 50}),
    "ba": Entry("decisions", NEAREST, {"steps": 1000}),
    "jsma": Entry("gradient", "few pixels, fully", {"gamma": 0.08}, targeted=True),
    "lsa_own": Entry("scores", "few pixels", {"rounds": 8, "candidates": 200}),
    "sta_own": Entry("gradient", "where pixels are", {"steps": 60}),
    "fwa": Entry("gradient", "where ink is, 0.15 pixels on average", {"eps": 0.15, "steps": 60}),
    "rp2": Entry("gradient", "a sticker of two bars", {"steps": 60, "mask": "mask1"}),
    "roa": Entry("gradient", "a rectangle of 7×7"),
}

UNTARGETED = ("apgd_ce", "apgd_dlr", "square", "fab", "aa", "ensemble")


def gallery(model: nn.Module, x: Tensor, y: Tensor, seed: int = 0) -> dict[str, Shown]:
    """All attacks of `SUITE` on `x` (N,C,H,W), labels `y` (N,); kept on disk where the model is the lab's."""
    shown = {}
    for attack, entry in SUITE.items():
        images, cost = _made("gallery", model, x, y, attack, entry.targeted, entry.settings, seed)
        shown[attack] = Shown(images, *cost)
    return shown


def explored(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attacks: Iterable[str],
    budgets: Sequence[float],
    aims: Sequence[bool] = (False,),
    seed: int = 0,
) -> dict[tuple[str, float, bool], Tensor]:
    """{(attack, ε, targeted): images (N,C,H,W)} of ℓ∞ attacks, kept as in `gallery`.

    aims: the values of `targeted`; an attack that knows no target is there untargeted only.
    """
    cases = [case for case in product(attacks, budgets, aims) if not (case[2] and case[0] in UNTARGETED)]
    return {
        (attack, eps, aim): _made("explored", model, x, y, attack, aim, {"eps": eps}, seed)[0]
        for attack, eps, aim in cases
    }


def _made(
    kind: str, model: nn.Module, x: Tensor, y: Tensor, attack: str, targeted: bool, settings: dict, seed: int
) -> tuple[Tensor, tuple[float, float]]:
    """The images of one attack, and its passes per image and seconds; loaded where they are on disk."""

    def build(checkpoint: object) -> tuple[dict, dict]:
        images, cost = _run(model, x, y, attack, targeted, settings, seed)
        return {"images": images}, {"cost": cost}

    victim = made_from(model)
    if victim is None:
        tensors, info = build(None)
        return tensors["images"], info["cost"]
    definition = source.attack(attack)
    made = {
        "attack": attack,
        "revisions": source.revisions(definition),
        "targeted": targeted,
        "settings": source.defaults(definition) | settings | {"seed": seed},
        "victim": victim.made,
        "images": hashlib.sha256(x.cpu().numpy().tobytes() + y.cpu().numpy().tobytes()).hexdigest(),
    }
    stored = artifacts.make(f"{kind}-{attack}", Recipe(made, asked={}), build)
    return stored.tensors["images"].to(device()), tuple(stored.info["cost"])


def _run(
    model: nn.Module, x: Tensor, y: Tensor, attack: str, targeted: bool, settings: dict, seed: int
) -> tuple[Tensor, tuple[float, float]]:
    if "mask" in settings:
        settings = settings | {"mask": stickers.mask(settings["mask"], size=x.shape[-1])}
    if draws(attack):
        settings = settings | {"seed": seed}
    goal = random_targets(y, num_classes(model, x), seed) if targeted else y
    shown = 0

    def count(module: nn.Module, inputs: tuple) -> None:
        nonlocal shown
        shown += len(inputs[0])

    hook = model.register_forward_pre_hook(count)
    started = time.perf_counter()
    try:
        images = ATTACKS[attack](model, x, goal, targeted=targeted, **settings)
    finally:
        hook.remove()
    return images, (shown / len(x), round(time.perf_counter() - started, 2))
