"""Attacks that use what is inside a defense: a hidden layer, its masks, the restored image."""

import torch
from torch import Tensor, nn

from helpers.attacks.contract import attack, heeded
from helpers.attacks.pgd import LOSSES, ascend, cross_entropy, in_format_of
from helpers.networks.features import features_only

DISTANCES = {
    "l2": lambda a, b: (a - b).square().sum(1),
    "cosine": lambda a, b: 1 - torch.cosine_similarity(a, b, dim=1),
}


@attack(revision=1)
def feature_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    layer: str,
    eps: float,
    distance: str = "l2",
    steps: int = 40,
    step_size: float | None = None,
    norm: str = "linf",
    random_start: bool = True,
    seed: int = 0,
) -> Tensor:
    """JATP's full adversarial example (Eq. 5): PGD on the distance between hidden features.

    layer: name of a submodule of `model`, as in `named_modules()`; its output on the natural image
        is f*(x).
    distance: "l2" (squared) or "cosine" (one minus the similarity).
    The other settings are those of `pgd`.  Labels are not used.  The random start is needed: at the
    natural image itself the distance has no gradient.  ValueError without it, and for a targeted attack.
    """
    if targeted:
        raise ValueError("feature_pgd has no target: it moves away from the natural image's features")
    if not random_start:
        raise ValueError(
            "feature_pgd needs its random start: at the natural image the distance has no gradient"
        )
    _check_distance(distance)
    ball = {"eps": eps, "steps": steps, "step_size": step_size, "norm": norm, "seed": seed}
    with features_only(model, layer) as see:
        with torch.no_grad():
            natural = see(x).flatten(1)

        def loss(x_adv):
            return DISTANCES[distance](see(x_adv).flatten(1), natural).sum()

        return ascend(loss, in_format_of(model, x), **ball)


@attack(revision=1)
def code_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    layer: str,
    eps: float,
    references: Tensor | None = None,
    classes: Tensor | None = None,
    distance: str = "l2",
    steps: int = 40,
    step_size: float | None = None,
    norm: str = "linf",
    random_start: bool = True,
    seed: int = 0,
) -> Tensor:
    """Drive a code, what a hidden layer gives, to the nearest code of another class: PGD on their distance.

    Where `feature_pgd` leaves the image's own features behind in any direction, this attack goes where the
    labels lead: it asks whether a code that is called invariant can be moved into another class.
    layer: name of a submodule of `model`, such as "denoiser.encoder.mean" of a pipeline.
    references: natural images (M,C,H,W) whose codes are the goals; in a profile the name of a split.
    classes: their labels (M,).  Each image goes to the code nearest to its own among those of other classes
        than `y`; with `targeted` among those of class `y`.
    distance: "l2" (squared) or "cosine" (one minus the similarity).
    The other settings are those of `pgd`.  ValueError without references of a class that is wanted.
    """
    _check_distance(distance)
    if references is None or classes is None or len(references) != len(classes):
        raise ValueError("code_pgd needs references: images (M,C,H,W), and classes: their labels (M,)")
    ball = {"eps": eps, "steps": steps, "step_size": step_size, "norm": norm, "seed": seed}
    with features_only(model, layer) as see:
        with torch.no_grad():
            codes = torch.cat([see(part).flatten(1) for part in references.split(500)])
            apart = torch.stack([DISTANCES[distance](codes, own[None]) for own in see(x).flatten(1)])
        wanted = (classes == y[:, None]) if targeted else (classes != y[:, None])
        if not wanted.any(1).all():
            raise ValueError("code_pgd needs a reference of a wanted class for each image: give more of them")
        goals = codes[apart.masked_fill(~wanted, torch.inf).argmin(1)]

        def loss(x_adv):
            return -DISTANCES[distance](see(x_adv).flatten(1), goals).sum()

        return ascend(loss, in_format_of(model, x), **ball, random_start=random_start)


@attack(revision=1)
def mask_adaptive(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    eps: float,
    steps: int = 40,
    step_size: float | None = None,
    norm: str = "linf",
    random_start: bool = True,
    seed: int = 0,
) -> Tensor:
    """DIR's masking-related adaptive attack (Eq. 8): noise made for each of the masks that the defense draws.

    model: a pipeline with `target` and `denoiser`; `denoiser.each` maps images to the restoration behind
        each of K masks, (K,N,C,H,W), drawn afresh in each step.  ValueError for any other.
    The settings are those of `pgd`.
    The loss is the sum of the cross-entropies of the K restorations, where that of PGD is one, of their
    mean.  The gradient is that with respect to x* = x × m, as the masks lie inside `each`: what a mask
    hides gets none from it, and of complementary masks each pixel follows the one that shows it.
    """
    if not (hasattr(model, "target") and hasattr(getattr(model, "denoiser", None), "each")):
        given = f"{type(model).__name__} with denoiser {type(getattr(model, 'denoiser', None)).__name__}"
        raise ValueError(
            f"mask_adaptive attacks a target behind a denoiser that restores `each` mask, got {given}"
        )
    ball = {"eps": eps, "steps": steps, "step_size": step_size, "norm": norm, "seed": seed}
    sign = -1 if targeted else 1

    def loss(x_adv):
        each = model.denoiser.each(heeded(x_adv))
        return sign * cross_entropy(model.target(each.flatten(0, 1)), y.repeat(len(each)))  # one batch

    return ascend(loss, in_format_of(model, x), **ball, random_start=random_start)


@attack(revision=1)
def restored(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    eps: float,
    loss: str = "ce",
    steps: int = 40,
    step_size: float | None = None,
    norm: str = "linf",
    random_start: bool = True,
    seed: int = 0,
) -> Tensor:
    """DIR's attack on the restored representation (Eq. 9): the target attacked around g(x).

    model: a pipeline with `target` and `denoiser`; ValueError for any other.
    loss: "ce" or "dlr".
    The other settings are those of `pgd`.
    The ball is around the *restored* image, cut to [0,1], and so is the result: show it to the target,
    not to the pipeline.  A stochastic denoiser restores once, by the random numbers of the attack's
    seed; no other draw of it plays a part.
    """
    if not (hasattr(model, "target") and hasattr(model, "denoiser")):
        raise ValueError(
            f"restored attacks a pipeline with a target and a denoiser, got {type(model).__name__}"
        )
    if loss not in LOSSES:
        raise ValueError(f"loss is one of {sorted(LOSSES)}, got {loss!r}")
    ball = {"eps": eps, "steps": steps, "step_size": step_size, "norm": norm, "seed": seed}
    sign = -1 if targeted else 1
    with torch.no_grad():
        around = in_format_of(model, model.denoiser(heeded(x)).clamp(0, 1))

    def uphill(x_adv):
        return sign * LOSSES[loss](model.target(heeded(x_adv)), y)

    return ascend(uphill, around, **ball, random_start=random_start)


def _check_distance(distance):
    if distance not in DISTANCES:
        raise ValueError(f"distance is one of {sorted(DISTANCES)}, got {distance!r}")
