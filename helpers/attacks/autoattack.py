"""AutoAttack (Croce & Hein 2020) and its parts, the original code from the package `pyautoattack`.

All are untargeted, in the ℓ∞ or ℓ2 ball of radius `eps` (units of the [0,1] image); an image that
is not broken is handed back unchanged.  Random numbers go by an image's place among those that are
still unbroken: what becomes of an image may depend on its neighbours that much.
"""

import logging

import torch

from helpers import seeded
from helpers.attacks.advertorch import num_classes

NORMS = {"linf": "Linf", "l2": "L2"}


def aa(model, x, y, *, targeted, eps, norm="linf", version="standard", batch_size=500, seed=0):
    """The parameter-free ensemble: APGD-CE, targeted APGD-DLR, targeted FAB and Square.

    version: "standard", or "rand" for a stochastic model (APGD with 20 gradient samples).
    Each attack sees only the examples that its predecessors left unbroken.  The targeted parts
    need at least four classes, "rand" three.
    """
    if version not in ("standard", "rand"):
        raise ValueError(f"version is standard or rand, got {version!r}")
    classes = _check(model, x, targeted, norm, classes=4 if version == "standard" else 3)
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.WARNING)
    attack = AutoAttack(model, eps=eps, norm=NORMS[norm], version=version, seed=seed, device=x.device)
    # Its targeted parts try nine classes, which a model with fewer than ten does not have.
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
    with seeded(seed):  # the library draws from torch's global generator
        return attack.run_standard_evaluation(x, y, batch_size=batch_size)[0].clamp(0, 1)


def apgd_ce(model, x, y, *, targeted, eps, norm="linf", steps=100, restarts=1, samples=1, seed=0):
    """Auto-PGD on the cross-entropy: momentum, and a step size that halves when progress stalls.

    samples: gradients averaged per step, for a stochastic model.
    """
    _check(model, x, targeted, norm, steps=steps, restarts=restarts, samples=samples)
    return _apgd(model, x, y, "ce", eps, norm, steps, restarts, samples, seed)


def apgd_dlr(model, x, y, *, targeted, eps, norm="linf", steps=100, restarts=1, samples=1, seed=0):
    """Auto-PGD on the difference-of-logits ratio, which no scaling of the logits can hide from."""
    _check(model, x, targeted, norm, classes=3, steps=steps, restarts=restarts, samples=samples)
    return _apgd(model, x, y, "dlr", eps, norm, steps, restarts, samples, seed)


def fab(model, x, y, *, targeted, eps, norm="linf", steps=100, restarts=1, seed=0):
    """Fast adaptive boundary attack towards each of the (at most nine) likeliest classes in turn.

    It looks for the smallest perturbation; one larger than `eps` counts as a failure.
    """
    classes = _check(model, x, targeted, norm, steps=steps, restarts=restarts)
    from pyautoattack.fab_pt import FABAttack_PT

    attack = FABAttack_PT(
        model, norm=NORMS[norm], n_restarts=restarts, n_iter=steps, eps=eps, seed=seed, targeted=True,
        device=x.device, n_target_classes=min(9, classes - 1),
    )  # fmt: skip
    return _run(attack, x, y, seed)


def square(model, x, y, *, targeted, eps, norm="linf", queries=5000, restarts=1, seed=0):
    """Square attack: random squares, kept where they lower the margin; it needs no gradient."""
    _check(model, x, targeted, norm, queries=queries, restarts=restarts)
    from pyautoattack.square import SquareAttack

    attack = SquareAttack(
        model, p_init=0.8, n_queries=queries, eps=eps, norm=NORMS[norm], n_restarts=restarts, seed=seed,
        verbose=False, device=x.device, resc_schedule=False,
    )  # fmt: skip
    return _run(attack, x, y, seed)


def _apgd(model, x, y, loss, eps, norm, steps, restarts, samples, seed):
    from pyautoattack.autopgd_base import APGDAttack

    attack = APGDAttack(
        model, n_restarts=restarts, n_iter=steps, eps=eps, norm=NORMS[norm], eot_iter=samples, rho=0.75, loss=loss,
        seed=seed, device=x.device, logger=logging.getLogger("auto-attack"),
    )  # fmt: skip
    return _run(attack, x, y, seed)


def _run(attack, x, y, seed):
    """One part by itself on the images that the model classifies rightly, the others left alone."""
    with seeded(seed), torch.enable_grad():
        x_adv = attack.perturb(x, y)
    return x_adv.clamp(0, 1)


def _check(model, x, targeted, norm, classes=2, **counts):
    """Number of classes of the model; ValueError for what the library would not notice."""
    if targeted:
        raise ValueError("AutoAttack and its parts are untargeted: pass the true labels and targeted=False")
    if norm not in NORMS:
        raise ValueError(f"norm is linf or l2, got {norm!r}")
    if x.dtype != torch.float32:
        raise ValueError(f"AutoAttack computes in float32, the images are {x.dtype}: use x.float() and model.float()")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if (found := num_classes(model, x)) < classes:
        raise ValueError(f"this attack needs at least {classes} classes, the model has {found}")
    return found
