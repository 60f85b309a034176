"""AutoAttack (Croce & Hein 2020) and its parts, the original code from the package `pyautoattack`.

All are untargeted, in the ℓ∞ or ℓ2 ball of radius `eps` (units of the [0,1] image); an image that
is not broken is handed back unchanged.  Random numbers go by an image's place among those that are
still unbroken: what becomes of an image may depend on its neighbours that much.

Parameters that they share, besides those of every attack (see `helpers.attacks`):
eps: radius > 0.
norm: "linf" or "l2".
steps, queries, restarts: whole numbers >= 1.
seed: of the random starts and searches.
ValueError for a targeted attack, too few classes, images that are not float32, and settings out of range.
"""

import logging

import torch
from torch import Tensor, nn

from helpers import seeded
from helpers.attacks.contract import attack, num_classes

NORMS = {"linf": "Linf", "l2": "L2"}

LOGGER = logging.getLogger("auto-attack")  # the library's


@attack(revision=1)
def aa(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    eps: float,
    norm: str = "linf",
    version: str = "standard",
    batch_size: int = 500,
    seed: int = 0,
) -> Tensor:
    """The parameter-free ensemble: APGD-CE, targeted APGD-DLR, targeted FAB and Square.

    version: "standard", or "rand" for a stochastic model (APGD with 20 gradient samples).
    batch_size: images at a time.
    Each attack sees only the examples that its predecessors left unbroken.  The targeted parts
    need at least four classes, "rand" three.
    """
    if version not in ("standard", "rand"):
        raise ValueError(f"version is standard or rand, got {version!r}")
    classes = _check(model, x, targeted, norm, at_least=4 if version == "standard" else 3)
    from pyautoattack import AutoAttack

    parts = AutoAttack(model, eps=eps, norm=NORMS[norm], version=version, seed=seed, device=x.device)
    # Its targeted parts try nine classes, which a model with fewer than ten does not have.
    parts.apgd_targeted.n_target_classes = parts.fab.n_target_classes = min(9, classes - 1)
    LOGGER.setLevel(logging.WARNING)
    with seeded(seed):  # the library draws from torch's global generator
        return parts.run_standard_evaluation(x, y, batch_size=batch_size)[0].clamp(0, 1)


@attack(revision=2)
def ensemble(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    eps: float,
    norm: str = "linf",
    steps: int = 30,
    classes: int = 3,
    queries: int = 200,
    seed: int = 0,
) -> Tensor:
    """A strong and cheap stand-in for AutoAttack: three of its parts, shortened.

    1. APGD on the cross-entropy, `steps` steps;
    2. APGD on the targeted difference-of-logits ratio (Croce & Hein, Eq. 7), `steps` steps towards each
       of the `classes` likeliest wrong classes;
    3. Square with `queries` queries, which needs no gradient: an alarm.  Images that it alone breaks say
       that the model masks its gradients; that it breaks none does not say the contrary.
    Each sees only the images that its predecessors left unbroken.  The model must have at least four classes.
    It took about a twentieth of AutoAttack's time.  On five pipelines of 100 images the two differed on none
    to one; on a net that masks its gradients the ensemble fell 25 short (`benchmarks/README.md`).
    """
    found = _check(model, x, targeted, norm, at_least=4, steps=steps, classes=classes, queries=queries)
    from pyautoattack.autopgd_base import APGDAttack_targeted

    shared = {"eps": eps, "norm": NORMS[norm], "seed": seed, "device": x.device}
    parts = [
        _apgd(model, "ce", steps=steps, **shared),
        APGDAttack_targeted(
            model, n_iter=steps, n_target_classes=min(classes, found - 1), logger=LOGGER, **shared
        ),
        # The usual schedule is made for thousands of queries; here squares shrink within those there are.
        _square(model, queries=queries, resc_schedule=True, **shared),
    ]
    x_adv, standing = x.clone(), torch.arange(len(x), device=x.device)
    for part in parts:
        with torch.no_grad():
            standing = standing[model(x_adv[standing]).argmax(1) == y[standing]]
        if len(standing) == 0:
            break
        x_adv[standing] = _run(part, x[standing], y[standing], seed)
    return x_adv


@attack(revision=1)
def apgd_ce(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    eps: float,
    norm: str = "linf",
    steps: int = 100,
    restarts: int = 1,
    samples: int = 1,
    seed: int = 0,
) -> Tensor:
    """Auto-PGD on the cross-entropy: momentum, and a step size that halves when progress stalls.

    samples: gradients averaged per step, for a stochastic model.
    """
    _check(model, x, targeted, norm, steps=steps, restarts=restarts, samples=samples)
    part = _apgd(
        model,
        "ce",
        eps=eps,
        norm=NORMS[norm],
        steps=steps,
        restarts=restarts,
        samples=samples,
        seed=seed,
        device=x.device,
    )
    return _run(part, x, y, seed)


@attack(revision=1)
def apgd_dlr(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    eps: float,
    norm: str = "linf",
    steps: int = 100,
    restarts: int = 1,
    samples: int = 1,
    seed: int = 0,
) -> Tensor:
    """Auto-PGD on the difference-of-logits ratio, which no scaling of the logits can hide from.

    samples: gradients averaged per step, for a stochastic model.
    """
    _check(model, x, targeted, norm, at_least=3, steps=steps, restarts=restarts, samples=samples)
    part = _apgd(
        model,
        "dlr",
        eps=eps,
        norm=NORMS[norm],
        steps=steps,
        restarts=restarts,
        samples=samples,
        seed=seed,
        device=x.device,
    )
    return _run(part, x, y, seed)


@attack(revision=1)
def fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    eps: float,
    norm: str = "linf",
    steps: int = 100,
    restarts: int = 1,
    seed: int = 0,
) -> Tensor:
    """Fast adaptive boundary attack towards each of the (at most nine) likeliest classes in turn.

    It looks for the smallest perturbation; one larger than `eps` counts as a failure.
    """
    classes = _check(model, x, targeted, norm, steps=steps, restarts=restarts)
    from pyautoattack.fab_pt import FABAttack_PT

    part = FABAttack_PT(
        model,
        norm=NORMS[norm],
        n_restarts=restarts,
        n_iter=steps,
        eps=eps,
        seed=seed,
        targeted=True,
        device=x.device,
        n_target_classes=min(9, classes - 1),
    )
    return _run(part, x, y, seed)


@attack(revision=1)
def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    eps: float,
    norm: str = "linf",
    queries: int = 5000,
    restarts: int = 1,
    seed: int = 0,
) -> Tensor:
    """Square attack: random squares, kept where they lower the margin; it needs no gradient."""
    _check(model, x, targeted, norm, queries=queries, restarts=restarts)
    part = _square(
        model, eps=eps, norm=NORMS[norm], queries=queries, restarts=restarts, seed=seed, device=x.device
    )
    return _run(part, x, y, seed)


def _apgd(model, loss, *, steps, restarts=1, samples=1, **shared):
    from pyautoattack.autopgd_base import APGDAttack

    return APGDAttack(
        model, loss=loss, n_iter=steps, n_restarts=restarts, eot_iter=samples, logger=LOGGER, **shared
    )


def _square(model, *, queries, restarts=1, resc_schedule=False, **shared):
    from pyautoattack.square import SquareAttack

    return SquareAttack(
        model, n_queries=queries, n_restarts=restarts, p_init=0.8, resc_schedule=resc_schedule, **shared
    )


def _run(part, x, y, seed):
    """One part by itself on the images that the model classifies rightly, the others left alone."""
    with seeded(seed), torch.enable_grad():
        x_adv = part.perturb(x, y)
    return x_adv.clamp(0, 1)


def _check(model, x, targeted, norm, at_least=2, **counts):
    """Number of classes of the model; ValueError for what the library would not notice."""
    if targeted:
        raise ValueError("AutoAttack and its parts are untargeted: pass the true labels and targeted=False")
    if norm not in NORMS:
        raise ValueError(f"norm is linf or l2, got {norm!r}")
    if x.dtype != torch.float32:
        raise ValueError(
            f"AutoAttack computes in float32, the images are {x.dtype}: use x.float() and model.float()"
        )
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if (found := num_classes(model, x)) < at_least:
        raise ValueError(f"this attack needs at least {at_least} classes, the model has {found}")
    return found
