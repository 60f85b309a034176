"""Threat models: what the attacker knows.  Each returns the plain module to be attacked.

`defended` is a `helpers.defenses.Defended`: target ∘ denoiser.
"""

import torch
from torch import nn


def oblivious(defended):
    """The attacker does not know of the denoiser: the bare target."""
    return defended.target


def white_box(defended):
    """The attacker knows everything: the whole pipeline, gradients through the denoiser included."""
    return defended


def gray_box(substitute, target):
    """The attacker knows the target but only a denoiser of another kind: target ∘ substitute."""
    from helpers.defenses import Defended

    return Defended(target, substitute)


def bpda(defended):
    """The denoiser runs forward, but its gradient is taken to be the identity (Athalye et al. 2018)."""
    return _StraightThrough(defended)


class _StraightThrough(nn.Module):
    def __init__(self, defended):
        super().__init__()
        self.defended = defended

    def forward(self, x):
        with torch.no_grad():
            restored = self.defended.denoiser(x)
        # Adds exactly zero, and carries the gradient with respect to `restored` over to x.
        # (Detached: an identity denoiser hands back x itself.)
        return self.defended.target(restored.detach() + (x - x.detach()))
