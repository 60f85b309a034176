"""Attacks as functions: `ATTACKS[name](model, x, y, *, targeted=False, **settings) -> x_adv`.

model: any module, or function, that maps images (N,C,H,W) in [0,1] to logits (N,K).  An attack never
    knows about defenses: `helpers.threats` builds the model to attack.
x: natural images, float32 NCHW in [0,1].
y: class numbers (N,), tensor, array or list: the true labels, or with `targeted` those to be predicted.
-> adversarial images of x's shape in [0,1].

Every attack runs with the model in `eval()` and its parameters frozen, restores both
afterwards, and gives the same result for the same settings (`seed` included) and batch; an
image's result does not depend on its neighbours, but for random numbers drawn by its place.
A bad input or setting is a ValueError that names it; so is a model without a gradient, or with one that is
NaN or infinite at all images (`NoGradient`); at some images it is a warning.  Work that takes longer than a
few seconds shows how many passes it has made.

A new attack is one file with one function, and one line below::

    @attack(revision=1)
    def mine(model, x, y, *, targeted, eps, steps=10): ...

(In a notebook the function alone will do: it is in `ATTACKS` from then on.)
"""

# ruff: noqa: F401   (importing an attack registers it)

from helpers.attacks.advertorch import cw, ddn, jsma, lsa, sta
from helpers.attacks.autoattack import aa, apgd_ce, apgd_dlr, ensemble, fab, square
from helpers.attacks.boundary import ba
from helpers.attacks.contract import (
    ATTACKS,
    NoGradient,
    as_labels,
    as_module,
    attack,
    attackable,
    check_model,
    draws,
    following,
    gradients_on,
    heeded,
    num_classes,
    random_targets,
    watched,
)
from helpers.attacks.local_search import lsa_own
from helpers.attacks.momentum import mi_fgsm, ti_bim, vni_fgsm
from helpers.attacks.pgd import fgsm, pgd, pgd_dlr
from helpers.attacks.physical import roa, rp2
from helpers.attacks.representation import code_pgd, feature_pgd, mask_adaptive, restored
from helpers.attacks.sta import sta_own
from helpers.attacks.wasserstein import fwa
