"""Threat models: what the attacker knows.  Each returns the plain module to be attacked.

`defended` is a `helpers.defenses.Defended`: target ∘ denoiser.
"""

import math

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from helpers import seeded


def oblivious(defended):
    """The attacker does not know of the denoiser: the bare target."""
    return defended.target


def transfer(surrogate):
    """The attacker knows neither network, and attacks one of their own in the hope that it carries over."""
    return surrogate


def gray_box(substitute, target):
    """The attacker knows the target but only a denoiser of another kind: target ∘ substitute."""
    from helpers.defenses import Defended

    return Defended(target, substitute)


def white_box(defended):
    """The attacker knows everything: the whole pipeline, gradients through the denoiser included."""
    return defended


def bpda(defended, stand_in=None):
    """The denoiser runs forward; backward goes through `stand_in` instead (Athalye et al. 2018).

    stand_in: a differentiable module, images -> images of the same shape; None: the identity.
    """
    return _StandIn(defended, nn.Identity() if stand_in is None else stand_in)


def eot(defended, samples):
    """Expectation over the defense's own randomness (Athalye et al. 2018): a soft vote of `samples` passes.

    The logits are the logarithm of the mean probability, so that the cross-entropy is that of the mean;
    a mean of logits would let one confident draw drown the others.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    return _Expectation(defended, samples)


def fixed_mask(defended, seed):
    """A stochastic defense with its randomness held still: each pass draws the same numbers.

    One draw is shared by all images of a batch, so that an image meets the same mask wherever it
    stands; a deterministic attack is then a fair one.  For denoisers that draw from torch's global
    generators and that `torch.func.vmap` can follow.
    """
    return _Still(defended, seed)


def by_name(name, defended):
    """The module to be attacked under the threat `name`.

    "oblivious", "white_box", "bpda", "eot_<samples>", "bpda_eot_<samples>" (the expectation of BPDA's passes, DIR's
    Table 3) or "fixed_mask_<seed>", as in "eot_20".  ValueError for any other.
    """
    plain = {"oblivious": oblivious, "white_box": white_box, "bpda": bpda}
    numbered = {"eot": eot, "bpda_eot": lambda it, samples: eot(bpda(it), samples), "fixed_mask": fixed_mask}
    kind, _, number = name.rpartition("_")
    if name in plain:
        return plain[name](defended)
    if kind in numbered and number.isdecimal():
        return numbered[kind](defended, int(number))
    choices = ", ".join([*plain, *(f"{kind}_<number>" for kind in numbered)])
    raise ValueError(f"unknown threat model: {name!r}; choose one of {choices}")


class _StandIn(nn.Module):
    def __init__(self, defended, stand_in):
        super().__init__()
        self.defended, self.stand_in = defended, stand_in

    def forward(self, x):
        with torch.no_grad():
            restored = self.defended.denoiser(x)
        guide = self.stand_in(x)
        # Adds exactly zero, and carries the gradient with respect to `restored` over to the stand-in.
        # (Detached: an identity denoiser hands back x itself.)
        return self.defended.target(restored.detach() + (guide - guide.detach()))


class _Expectation(nn.Module):
    def __init__(self, defended, samples):
        super().__init__()
        self.defended, self.samples = defended, samples

    def forward(self, x):
        # One pass after the other: a defense may draw once for a whole batch.
        draws = torch.stack([self.defended(x).log_softmax(1) for _ in range(self.samples)])
        return draws.logsumexp(0) - math.log(self.samples)


class _Still(nn.Module):
    def __init__(self, defended, seed):
        super().__init__()
        self.defended, self.seed = defended, seed

    def forward(self, x):
        # vmap can follow attention in its plain form only.
        with seeded(self.seed), sdpa_kernel(SDPBackend.MATH):
            return torch.func.vmap(lambda image: self.defended(image[None])[0], randomness="same")(x)
