"""Attacks as functions: `ATTACKS[name](model, x, y, *, targeted=False, **settings) -> x_adv`.

model: any module that maps images (N,C,H,W) in [0,1] to logits (N,K).  An attack never knows
    about defenses: `helpers.threats` builds the model to attack.
x: natural images, float32 NCHW in [0,1].  y: int64 (N,), the true labels, or with `targeted`
    the labels to be predicted.
-> adversarial images of x's shape in [0,1].

Every attack runs with the model in `eval()` and its parameters frozen, restores both
afterwards, and gives the same result for the same settings (`seed` included) and batch.
A bad input or setting is a ValueError that names it.  To add an attack, write a function
`f(model, x, y, *, targeted, **settings)` and list it in `_IMPLEMENTATIONS`.
"""

import functools
from contextlib import contextmanager

import torch

from helpers.attacks.advertorch import cw, ddn, jsma, num_classes
from helpers.attacks.autoattack import aa
from helpers.attacks.pgd import fgsm, pgd
from helpers.attacks.sta import sta
from helpers.data import check_images

_IMPLEMENTATIONS = {"fgsm": fgsm, "pgd": pgd, "cw": cw, "ddn": ddn, "jsma": jsma, "sta": sta, "aa": aa}


@contextmanager
def attackable(model):
    """Put `model` in eval mode with frozen parameters; restore both on leaving.

    Freezing is a matter of speed too: gradients for parameters nobody reads cost a third.
    """
    training = {module: module.training for module in model.modules()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield model
    finally:
        for module, was in training.items():
            module.training = was
        for p in trainable:
            p.requires_grad_(True)


def _contract(attack):
    @functools.wraps(attack)
    def checked(model, x, y, *, targeted=False, **settings):
        check_images(x, y)
        if not settings.get("eps", 1) > 0:
            raise ValueError(f"eps must be positive, got {settings['eps']}")
        x = x.detach()
        with attackable(model), torch.enable_grad():
            check_images(x, y, num_classes(model, x))
            return attack(model, x, y, targeted=targeted, **settings).detach()

    return checked


ATTACKS = {name: _contract(attack) for name, attack in _IMPLEMENTATIONS.items()}


def random_targets(y, num_classes, seed=0):
    """Target labels (N,), uniform over the classes other than the true label `y` (N,)."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(1, num_classes, y.shape, generator=generator)
    return (y + shift.to(y.device)) % num_classes
