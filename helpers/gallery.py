"""Every attack of the suite on the same few images, and what each one costs (notebook 01)."""

import time
from dataclasses import dataclass

import torch

from helpers import artifacts, device
from helpers.attacks import ATTACKS, random_targets

EPS = 0.2  # ℓ∞ radius of all attacks that have one


@dataclass(frozen=True)
class Entry:
    """One line of the gallery.

    knows: what the attacker must have of the model.  changes: what may happen to the image.
    settings: of the attack, beyond the defaults.  targeted: towards random other classes.
    """

    knows: str
    changes: str
    settings: dict
    targeted: bool = False


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
    "feature_pgd": Entry("a hidden layer", BALL, {"eps": EPS, "steps": 40, "layer": "conv2"}),
    "square": Entry("scores", BALL, {"eps": EPS, "queries": 1000}),
    "fab": Entry("gradient", "as little as possible (ℓ∞)", {"eps": 1.0}),
    "cw": Entry("gradient", NEAREST, {"steps": 100, "search_steps": 3, "learning_rate": 0.1, "confidence": 0.0}),
    "ddn": Entry("gradient", NEAREST, {"steps": 50}),
    "ba": Entry("decisions", NEAREST, {"steps": 2000}),
    "jsma": Entry("gradient", "few pixels, fully", {}, targeted=True),
    "lsa": Entry("scores", "few pixels", {"rounds": 40}),
    "sta": Entry("gradient", "where pixels are", {"steps": 60}),
    "fwa": Entry("gradient", "where ink is, 0.15 pixels on average", {"eps": 0.15, "steps": 60}),
    "rp2": Entry("gradient", "a sticker of two bars", {"steps": 60, "mask": "bars"}),
    "roa": Entry("gradient", "a rectangle of 7×7", {}),
}


def gallery(model, x, y, name, seed=0):
    """{attack: (images (N,C,H,W), forward passes per image, seconds)} for all of `SUITE`, made once and kept.

    name: of the model, for the artifact's key.  The passes count what the model was shown, gradients not.
    """
    settings = {"model": name, "n": len(x), "seed": seed, "suite": {k: [e.settings, e.targeted] for k, e in SUITE.items()}}

    def build(checkpoint):
        made, costs = {}, {}
        for attack, entry in SUITE.items():
            shown = []
            hook = model.register_forward_hook(lambda m, inputs, out: shown.append(len(inputs[0])))  # noqa: B023
            started = time.perf_counter()
            made[attack] = _run(model, x, y, attack, entry, seed)
            costs[attack] = [sum(shown) / len(x), round(time.perf_counter() - started, 2)]
            hook.remove()
        return made, {"costs": costs}

    stored = artifacts.make("gallery", settings, build)
    costs = stored.info["costs"]
    return {attack: (stored.tensors[attack].to(device()), *costs[attack]) for attack in SUITE}


def explored(model, x, y, name, attacks, budgets, aims, seed=0):
    """{(attack, ε, targeted): images (N,C,H,W)} of the ℓ∞ `attacks`, made once and kept; for curves and explorers.

    aims: the values of `targeted`; an attack that knows no target is there untargeted only.
    """
    cases = [(a, eps, t) for a in attacks for eps in budgets for t in aims if not (t and a in UNTARGETED)]
    settings = {"model": name, "n": len(x), "seed": seed, "cases": cases}
    goal = random_targets(y, 10, seed)

    def build(checkpoint):
        return {
            _key(*case): ATTACKS[case[0]](model, x, goal if case[2] else y, targeted=case[2], eps=case[1])
            for case in cases
        }, {}

    stored = artifacts.make("explored", settings, build)
    return {case: stored.tensors[_key(*case)].to(device()) for case in cases}


UNTARGETED = ("apgd_ce", "apgd_dlr", "square", "fab", "aa")


def _key(attack, eps, targeted):
    return f"{attack} {eps} {'targeted' if targeted else 'untargeted'}"


def _run(model, x, y, attack, entry, seed):
    settings = dict(entry.settings)
    if settings.get("mask") == "bars":
        mask = torch.zeros(x.shape[2:], device=x.device)
        mask[x.shape[2] // 4 :][:3] = mask[-x.shape[2] // 4 :][:3] = 1
        settings["mask"] = mask
    goal = random_targets(y, 10, seed) if entry.targeted else y
    return ATTACKS[attack](model, x, goal, targeted=entry.targeted, **settings)
