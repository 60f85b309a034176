"""AutoAttack (Croce & Hein 2020) and its parts, the original code from the package `pyautoattack`.

All are untargeted, in the ℓ∞ or ℓ2 ball of radius `eps` (units of the [0,1] image); an image that
is not broken is handed back unchanged.  Random numbers go by an image's place among those that are
still unbroken: what becomes of an image may depend on its neighbours that much.

Parameters that they share, besides those of every attack (see `helpers.attacks`):
eps: radius > 0, for ℓ∞ at most 1.
norm: "linf" or "l2".
steps, queries, restarts, samples, batch_size: whole numbers >= 1.
samples: gradients averaged in each step, for a stochastic model (EOT).
seed: of the random starts and searches.
ValueError for a targeted attack, too few classes, images that are not float32 or, with Square in ℓ2, of
a shape that it cannot tile, and settings out of range.
"""

import logging

import torch
from torch import Tensor, nn

from helpers import seeded
from helpers.attacks.contract import attack, num_classes
from helpers.attacks.pgd import in_range

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

    version: "standard", or "rand" for a stochastic model: APGD on both losses with 20 gradient samples.
    batch_size: images at a time.
    Each attack sees only the examples that its predecessors left unbroken.  The targeted parts
    need at least four classes, "rand" three.
    """
    if version not in ("standard", "rand"):
        raise ValueError(f"version is standard or rand, got {version!r}")
    standard = version == "standard"
    classes = _check(
        model, x, targeted, eps, norm, 4 if standard else 3, tiled=standard, batch_size=batch_size
    )
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
    counts = {"steps": steps, "classes": classes, "queries": queries}
    found = _check(model, x, targeted, eps, norm, 4, tiled=True, **counts)
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.square import SquareAttack

    shared = {"eps": eps, "norm": NORMS[norm], "seed": seed, "device": x.device}
    apgd = shared | {"n_iter": steps, "logger": LOGGER}
    parts = [
        APGDAttack(model, loss="ce", **apgd),
        APGDAttack_targeted(model, n_target_classes=min(classes, found - 1), **apgd),
        # The usual schedule is made for thousands of queries; here squares shrink within those there are.
        SquareAttack(model, n_queries=queries, resc_schedule=True, **shared),
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
def apgd_ce(model: nn.Module, x: Tensor, y: Tensor, *, targeted: bool, **settings) -> Tensor:
    """Auto-PGD on the cross-entropy: momentum, and a step size that halves when progress stalls."""
    return _apgd(model, x, y, targeted=targeted, loss="ce", at_least=2, **settings)


@attack(revision=1)
def apgd_dlr(model: nn.Module, x: Tensor, y: Tensor, *, targeted: bool, **settings) -> Tensor:
    """Auto-PGD on the difference-of-logits ratio, which no scaling of the logits can hide from."""
    return _apgd(model, x, y, targeted=targeted, loss="dlr", at_least=3, **settings)


def _apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    loss: str,
    at_least: int,
    eps: float,
    norm: str = "linf",
    steps: int = 100,
    restarts: int = 1,
    samples: int = 1,
    seed: int = 0,
) -> Tensor:
    """Auto-PGD on the library's loss "ce" or "dlr", which needs `at_least` so many classes."""
    _check(model, x, targeted, eps, norm, at_least, steps=steps, restarts=restarts, samples=samples)
    from pyautoattack.autopgd_base import APGDAttack

    counts = {"n_iter": steps, "n_restarts": restarts, "eot_iter": samples}
    shared = {"eps": eps, "norm": NORMS[norm], "seed": seed, "device": x.device}
    return _run(APGDAttack(model, loss=loss, logger=LOGGER, **counts, **shared), x, y, seed)


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
    classes = _check(model, x, targeted, eps, norm, 2, steps=steps, restarts=restarts)
    from pyautoattack.fab_pt import FABAttack_PT

    counts = {"n_iter": steps, "n_restarts": restarts, "n_target_classes": min(9, classes - 1)}
    shared = {"eps": eps, "norm": NORMS[norm], "seed": seed, "device": x.device}
    return _run(FABAttack_PT(model, targeted=True, **counts, **shared), x, y, seed)


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
    _check(model, x, targeted, eps, norm, 2, tiled=True, queries=queries, restarts=restarts)
    from pyautoattack.square import SquareAttack

    counts = {"n_queries": queries, "n_restarts": restarts, "resc_schedule": False}
    shared = {"eps": eps, "norm": NORMS[norm], "seed": seed, "device": x.device}
    return _run(SquareAttack(model, **counts, **shared), x, y, seed)


def _run(part, x, y, seed):
    """One part by itself on the images that the model classifies rightly, the others left alone."""
    with seeded(seed), torch.enable_grad():
        return part.perturb(x, y).clamp(0, 1)


def _check(model, x, targeted, eps, norm, at_least, *, tiled=False, **counts):
    """Number of classes of the model; ValueError for what the library would not notice.

    tiled: whether Square is among the parts, which in ℓ2 begins by covering the image with squares.
    """
    if targeted:
        raise ValueError("AutoAttack and its parts are untargeted: pass the true labels and targeted=False")
    if norm not in NORMS:
        raise ValueError(f"norm is linf or l2, got {norm!r}")
    if norm == "linf":
        in_range(eps)
    if x.dtype != torch.float32:
        raise ValueError(
            f"AutoAttack computes in float32, the images are {x.dtype}: use x.float() and model.float()"
        )
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    height, width = x.shape[2:]
    tile, border = height // 5, height % 5 // 2
    inside = tile == 1 or tile > 1 and all(border + n // tile * tile <= n for n in (height, width))
    if tiled and norm == "l2" and not inside:
        raise ValueError(
            f"Square in ℓ2, AutoAttack's too, cannot cover {height}×{width} pixels with squares of a "
            "fifth of the height: use norm='linf', or apgd_ce, apgd_dlr and fab; "
            "it can cover 28×28 and 32×32"
        )
    if (found := num_classes(model, x)) < at_least:
        raise ValueError(f"this attack needs at least {at_least} classes, the model has {found}")
    return found
