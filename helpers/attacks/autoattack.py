"""AutoAttack (Croce & Hein 2020), the original code from the package `pyautoattack`."""

import logging

from helpers import seeded
from helpers.attacks.advertorch import num_classes


def aa(model, x, y, *, targeted, eps, norm="linf", version="standard", batch_size=500, seed=0):
    """The parameter-free ensemble: APGD-CE, targeted APGD-DLR, targeted FAB and Square.

    eps: radius in units of the [0,1] image.  norm: "linf" or "l2".
    version: "standard", or "rand" for a stochastic model (APGD with 20 gradient samples).
    Each attack sees only the examples that its predecessors left unbroken; what stays
    unbroken is handed back unchanged.  The targeted parts need at least four classes.
    """
    from pyautoattack import AutoAttack

    if targeted:
        raise ValueError("AutoAttack is untargeted: pass the true labels and targeted=False")
    norms = {"linf": "Linf", "l2": "L2"}
    if norm not in norms or version not in ("standard", "rand"):
        raise ValueError(f"norm is linf or l2, version standard or rand; got {norm}, {version}")
    if (classes := num_classes(model, x)) < 4:
        raise ValueError(f"AutoAttack needs at least 4 classes, the model has {classes}")
    logging.getLogger("auto-attack").setLevel(logging.WARNING)
    with seeded(seed):  # the library draws from torch's global generator
        attack = AutoAttack(model, eps=eps, norm=norms[norm], version=version, seed=seed, device=x.device)
        # Its targeted parts try nine classes, which a model with fewer than ten does not have.
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
        x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=batch_size)
    return x_adv.clamp(0, 1)
