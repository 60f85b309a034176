"""The whole pipeline, and threat models: what the attacker knows.  Each is the plain module to be attacked.

A module that came from the lab carries what it was made from as its attribute `recipe`; what is composed of
such modules has one, too, so that an attack on it can be kept.  Everything else has none, and works as well.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from helpers import seeded


def made_from(module: nn.Module) -> Any | None:
    """The recipe that `module` was made from; None where it did not come from the lab."""
    return getattr(module, "recipe", None)


class Defended(nn.Module):
    """The whole pipeline, target ∘ denoiser: images (N,C,H,W) in [0,1] -> logits (N,K).

    target: classifier of images (N,C,H,W).
    denoiser: images (N,C,H,W) -> restored images of the same shape; `nn.Identity()` for none.
    """

    def __init__(self, target: nn.Module, denoiser: nn.Module) -> None:
        super().__init__()
        self.target, self.denoiser = target, denoiser

    def forward(self, x: Tensor) -> Tensor:
        return self.target(self.denoiser(x))

    @property
    def recipe(self) -> Any | None:
        """What it was made from, if that is known of both parts and it is target ∘ denoiser, no more."""
        if type(self).forward is not Defended.forward:
            return None
        target, denoiser = made_from(self.target), made_from(self.denoiser)
        if type(self.denoiser) is nn.Identity:
            return target
        return None if target is None or denoiser is None else denoiser.then(target)


def oblivious(defended: Defended) -> nn.Module:
    """The attacker does not know of the denoiser: the bare target; ValueError where there is none."""
    return _pipeline(defended).target


def transfer(surrogate: nn.Module) -> nn.Module:
    """The attacker knows neither network, and attacks one of their own in the hope that it carries over."""
    return surrogate


def gray_box(substitute: nn.Module, target: nn.Module) -> Defended:
    """The attacker knows the target but only a denoiser of another kind: target ∘ substitute."""
    return Defended(target, substitute)


def white_box(defended: nn.Module) -> nn.Module:
    """The attacker knows everything: the whole pipeline, gradients through the denoiser included."""
    return defended


def bpda(defended: Defended, stand_in: nn.Module | None = None) -> nn.Module:
    """The denoiser runs forward; backward goes through `stand_in` instead (Athalye et al. 2018).

    defended: the pipeline.  Over its randomness: `eot(bpda(defended), samples)`.
    stand_in: a differentiable module, images -> images of the same shape; None: the identity.
    ValueError for what is no pipeline.
    """
    return _StandIn(_pipeline(defended), nn.Identity() if stand_in is None else stand_in)


def _pipeline(defended: Defended) -> Defended:
    if not (hasattr(defended, "target") and hasattr(defended, "denoiser")):
        given = type(defended).__name__
        raise ValueError(f"a pipeline is wanted, Defended(target, denoiser) of helpers.threats; got {given}")
    return defended


def eot(defended: nn.Module, samples: int) -> nn.Module:
    """Expectation over the defense's own randomness (Athalye et al. 2018): a soft vote of `samples` passes.

    The logits are the logarithm of the mean probability, so that the cross-entropy is that of the mean;
    a mean of logits would let one confident draw drown the others.

    defended: any classifier.
    samples: passes, a whole number of at least 1; else ValueError.
    """
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples must be a whole number of at least 1, got {samples!r}")
    return _Expectation(defended, samples)


def fixed_mask(defended: nn.Module, seed: int) -> nn.Module:
    """A stochastic defense with its randomness held still: each pass draws the same numbers.

    One draw is shared by all images of a batch, so that an image meets the same mask wherever it
    stands; a deterministic attack is then a fair one.  For denoisers that draw from torch's global
    generators and that `torch.func.vmap` can follow.

    defended: any classifier.
    seed: of the draw.
    """
    return _Still(defended, seed)


class _Threat(nn.Module):
    """A pipeline as an attacker sees it; its recipe is the pipeline's, with what the attacker does to it."""

    def __init__(self, defended: nn.Module) -> None:
        super().__init__()
        self.defended = defended

    @property
    def recipe(self) -> Any | None:
        recipe = made_from(self.defended)
        return None if recipe is None else self.seen_as(recipe)


class _StandIn(_Threat):
    def __init__(self, defended: Defended, stand_in: nn.Module) -> None:
        super().__init__(defended)
        self.stand_in = stand_in

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():  # the denoiser may leave torch, and work in place
            restored = self.defended.denoiser(x.detach().clone()).to(x)
        guide = self.stand_in(x)
        # Adds exactly zero, and carries the gradient with respect to `restored` over to the stand-in.
        return self.defended.target(restored + (guide - guide.detach()))

    def seen_as(self, recipe: Any) -> Any | None:
        stand_in = made_from(self.stand_in)
        if stand_in is None and type(self.stand_in) is not nn.Identity:
            return None
        return recipe.under("bpda", stand_in=stand_in)


class _Expectation(_Threat):
    def __init__(self, defended: nn.Module, samples: int) -> None:
        super().__init__(defended)
        self.samples = samples

    def forward(self, x: Tensor) -> Tensor:
        # One pass after the other: a defense may draw once for a whole batch, and may work in place.
        draws = torch.stack([self.defended(x.clone()).log_softmax(1) for _ in range(self.samples)])
        return draws.logsumexp(0) - math.log(self.samples)

    def seen_as(self, recipe: Any) -> Any:
        return recipe.under("eot", samples=self.samples)


class _Still(_Threat):
    def __init__(self, defended: nn.Module, seed: int) -> None:
        super().__init__(defended)
        self.seed = seed

    def forward(self, x: Tensor) -> Tensor:
        # vmap can follow attention in its plain form only.
        with seeded(self.seed), sdpa_kernel(SDPBackend.MATH):
            return torch.func.vmap(lambda image: self.defended(image[None])[0], randomness="same")(x.clone())

    def seen_as(self, recipe: Any) -> Any:
        return recipe.under("fixed_mask", seed=self.seed)
