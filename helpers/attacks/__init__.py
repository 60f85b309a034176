"""Attacks as functions: `ATTACKS[name](model, x, y, *, targeted=False, **settings) -> x_adv`.

model: any module that maps images (N,C,H,W) in [0,1] to logits (N,K).  An attack never knows
    about defenses: `helpers.threats` builds the model to attack.
x: natural images, float32 NCHW in [0,1].  y: int64 (N,), the true labels, or with `targeted`
    the labels to be predicted.
-> adversarial images of x's shape in [0,1].

Every attack runs with the model in `eval()` and its parameters frozen, restores both
afterwards, and gives the same result for the same settings (`seed` included) and batch; an
image's result does not depend on its neighbours, but for random numbers drawn by its place.
A bad input or setting is a ValueError that names it.  Work that takes longer than a few seconds
shows how many passes it has made.  To add an attack, write a function
`f(model, x, y, *, targeted, **settings)` and list it in `_IMPLEMENTATIONS`.
"""

import functools
import inspect
import os
from contextlib import contextmanager

import torch
from tqdm.auto import tqdm

from helpers import seeded
from helpers.attacks.advertorch import cw, ddn, jsma
from helpers.attacks.autoattack import aa, apgd_ce, apgd_dlr, fab, square
from helpers.attacks.boundary import ba
from helpers.attacks.local_search import lsa
from helpers.attacks.momentum import mi_fgsm, ti_bim, vni_fgsm
from helpers.attacks.pgd import fgsm, pgd, pgd_dlr
from helpers.attacks.physical import roa, rp2
from helpers.attacks.representation import feature_pgd, mask_adaptive, restored
from helpers.attacks.sta import sta
from helpers.attacks.wasserstein import fwa
from helpers.data import check_images

_IMPLEMENTATIONS = {
    # in the ℓ∞ or ℓ2 ball, by the gradient
    "fgsm": fgsm, "pgd": pgd, "pgd_dlr": pgd_dlr,
    "mi_fgsm": mi_fgsm, "vni_fgsm": vni_fgsm, "ti_bim": ti_bim,
    "apgd_ce": apgd_ce, "apgd_dlr": apgd_dlr, "fab": fab, "aa": aa,
    # of the smallest norm, or with the fewest pixels
    "cw": cw, "ddn": ddn, "jsma": jsma,
    # without gradients
    "square": square, "ba": ba, "lsa": lsa,
    # that move pixels or their mass
    "sta": sta, "fwa": fwa,
    # on a patch: a sticker, a rectangle
    "rp2": rp2, "roa": roa,
    # made for denoisers
    "feature_pgd": feature_pgd, "mask_adaptive": mask_adaptive, "restored": restored,
}  # fmt: skip

# By how much a library may leave [0,1] before it counts as an error.
ROUNDING = 1e-5

# Seconds before an attack shows that it is at work.
PATIENCE = 5


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


@contextmanager
def _passes_shown(model, name):
    """A bar that counts the model's forward passes, for all attacks alike: libraries' have no other window."""
    silent = os.environ.get("TQDM_DISABLE") == "1"  # tqdm's own switch; its notebook bar ignores it
    with tqdm(desc=name, unit=" passes", delay=PATIENCE, leave=False, disable=silent) as bar:
        # Before the pass, as one may end early.  (A hook's own result would replace the inputs, and `update` has one.)
        hook = model.register_forward_pre_hook(lambda *_: bar.update() and None)
        try:
            yield
        finally:
            hook.remove()


def _contract(name, attack):
    @functools.wraps(attack)
    def checked(model, x, y, *, targeted=False, **settings):
        check_images(x, y)
        if not settings.get("eps", 1) > 0:
            raise ValueError(f"eps must be positive, got {settings['eps']}")
        x = x.detach()
        with attackable(model):
            check_model(model, x, y, targeted)
            # Seeded: a stochastic model draws its numbers from torch's global generators.
            with torch.enable_grad(), _passes_shown(model, name), seeded(settings.get("seed", 0)):
                x_adv = attack(model, x, y, targeted=targeted, **settings).detach().contiguous()
        low, high = (value.item() for value in x_adv.aminmax())  # both NaN if one value is
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise RuntimeError(f"{name} left [0,1]: its result holds values in [{low}, {high}]; are the gradients finite?")
        return x_adv.clamp(0, 1)

    return checked


@torch.no_grad()
def check_model(model, x, y, targeted):
    """Raise ValueError if `model` is not fit to be attacked on `x`, or if `y` cannot be what it should be."""
    halves = {p.dtype for p in model.parameters()} & {torch.float16, torch.bfloat16}
    if halves:
        raise ValueError(f"the model's parameters are {halves.pop()}, too coarse for an attack's gradients: model.float()")
    images = x if targeted else x[:1]  # an attack of one step should not pay for two
    logits = model(images)
    if not torch.is_tensor(logits) or logits.ndim != 2 or len(logits) != len(images):
        shape = tuple(logits.shape) if torch.is_tensor(logits) else type(logits).__name__
        raise ValueError(f"the model must map images {tuple(images.shape)} to logits ({len(images)}, classes), it gave {shape}")
    if not logits.isfinite().all():
        raise ValueError("the model's logits on natural images hold NaN or infinity: has its training diverged?")
    check_images(x, y, logits.shape[1])
    if not targeted:
        return
    hits = int((logits.argmax(1) == y).sum())
    if len(x) > 1 and 2 * hits > len(x):
        raise ValueError(
            f"targeted=True, but {hits} of {len(x)} images are already classified as their target: "
            "y must hold the labels to be reached, never the true ones (see random_targets)"
        )


ATTACKS = {name: _contract(name, attack) for name, attack in _IMPLEMENTATIONS.items()}


def draws(name):
    """Whether the attack `name` draws random numbers, and so takes a `seed`."""
    parameters = inspect.signature(_IMPLEMENTATIONS[name]).parameters.values()
    # Attacks that hand their other settings on to `pgd.ascend` take its seed.
    return any(p.name == "seed" or p.kind is p.VAR_KEYWORD for p in parameters)


def random_targets(y, num_classes, seed=0):
    """Target labels (N,), uniform over the classes other than the true label `y` (N,)."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(1, num_classes, y.shape, generator=generator)
    return (y + shift.to(y.device)) % num_classes
