"""Attacks that use what is inside a defense: a hidden layer, its masks, the restored image."""

import torch
from torch import Tensor, nn

from helpers.attacks.contract import attack
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
    if distance not in DISTANCES:
        raise ValueError(f"distance is one of {sorted(DISTANCES)}, got {distance!r}")
    with features_only(model, layer) as see:
        with torch.no_grad():
            natural = see(x).flatten(1)
        return ascend(
            lambda x_adv: DISTANCES[distance](see(x_adv).flatten(1), natural).sum(),
            in_format_of(model, x),
            eps=eps,
            steps=steps,
            step_size=step_size,
            norm=norm,
            random_start=random_start,
            seed=seed,
        )


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
    sign = -1 if targeted else 1

    def loss(x_adv):
        each = model.denoiser.each(x_adv)
        return sign * cross_entropy(model.target(each.flatten(0, 1)), y.repeat(len(each)))  # one batch

    return ascend(
        loss,
        in_format_of(model, x),
        eps=eps,
        steps=steps,
        step_size=step_size,
        norm=norm,
        random_start=random_start,
        seed=seed,
    )


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
    sign = -1 if targeted else 1
    with torch.no_grad():
        around = in_format_of(model, model.denoiser(x).clamp(0, 1))
    return ascend(
        lambda x_adv: sign * LOSSES[loss](model.target(x_adv), y),
        around,
        eps=eps,
        steps=steps,
        step_size=step_size,
        norm=norm,
        random_start=random_start,
        seed=seed,
    )
