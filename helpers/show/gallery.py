"""Every attack of the suite on the same few images, and what each one costs (notebook 01)."""

import hashlib
import time
from dataclasses import dataclass

import torch

from helpers import device
from helpers.lab import artifacts
from helpers.attacks import ATTACKS, draws, random_targets
from helpers.attacks.advertorch import num_classes

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
    suite = {attack: [entry.settings, entry.targeted] for attack, entry in SUITE.items()}
    settings = {"model": name, "images": _fingerprint(x, y), "seed": seed, "suite": suite}

    def build(checkpoint):
        made, costs = {}, {}
        for attack, entry in SUITE.items():
            shown = []
            hook = model.register_forward_pre_hook(lambda m, inputs: shown.append(len(inputs[0])))  # noqa: B023
            started = time.perf_counter()
            try:
                made[attack] = _run(model, x, y, attack, entry, seed)
            finally:
                hook.remove()
            costs[attack] = [sum(shown) / len(x), round(time.perf_counter() - started, 2)]
        return made, {"costs": costs}

    stored = artifacts.make("gallery", settings, build)
    costs = stored.info["costs"]
    return {attack: (stored.tensors[attack].to(device()), *costs[attack]) for attack in SUITE}


def explored(model, x, y, name, attacks, budgets, aims, seed=0):
    """{(attack, ε, targeted): images (N,C,H,W)} of the ℓ∞ `attacks`, made once and kept; for curves and explorers.

    aims: the values of `targeted`; an attack that knows no target is there untargeted only.
    """
    cases = [(a, eps, t) for a in attacks for eps in budgets for t in aims if not (t and a in UNTARGETED)]
    settings = {"model": name, "images": _fingerprint(x, y), "seed": seed, "cases": cases}

    def build(checkpoint):
        return {_key(a, eps, t): _attack(model, x, y, a, t, seed, eps=eps) for a, eps, t in cases}, {}

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
    return _attack(model, x, y, attack, entry.targeted, seed, **settings)


def _attack(model, x, y, attack, targeted, seed, **settings):
    goal = random_targets(y, num_classes(model, x), seed) if targeted else y
    settings |= {"seed": seed} if draws(attack) else {}
    return ATTACKS[attack](model, x, goal, targeted=targeted, **settings)


def _fingerprint(x, y):
    """Of these very images and labels: other profiles draw others."""
    return hashlib.sha256(x.cpu().numpy().tobytes() + y.cpu().numpy().tobytes()).hexdigest()[:16]
