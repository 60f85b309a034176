"""Adversarial training of the target: on PGD examples (Madry et al., ICLR 2018), or on those of any attack.

With FGSM it is ADD's Def-adv (Fig. 1(a)); with ROA it is DOA, the defense against occlusion (Wu et al., ICLR 2020).
"""

import inspect

import torch
from torch.nn import functional as F

from helpers.attacks import ATTACKS, attackable, draws
from helpers.defenses.classifier import Classifier

# Madry et al.'s attack on MNIST, an ℓ∞ ball in units of the [0,1] image.
MADRY = {"eps": 0.3, "steps": 40, "step_size": 0.01}


class AdversarialTraining(Classifier):
    """A classifier trained on adversarial examples of itself: (N,C,S,S) in [0,1] -> (N,num_classes) logits.

    attack: a name of `helpers.attacks`.  attack_settings: its keyword arguments; None: `MADRY` for PGD,
        the attack's own defaults for others.
    with_natural: learn from natural and adversarial examples, half each, as where ADD speaks of *augmenting*
        the training data; Madry et al. and Wu et al. learn from adversarial ones alone.
    network, width, learning_rate, augment, and so on: as in `Classifier`.  Cropped and mirrored images are
        attacked, not the other way round.
    Raises ValueError for an unknown attack, or settings that it does not take.

    A training step costs as many passes as the attack makes, and one more.  On 32×32 images ROA (30 steps,
    stride 2) makes one forward pass for each place, 196 for a 7×7 and 180 for a 10×5 rectangle, when its
    search is exhaustive; six, one of them also backward, when it goes by the gradient; and 30 forward and
    backward.  Twice the stride is a quarter of the places.
    """

    def __init__(self, attack="pgd", attack_settings=None, with_natural=False, learning_rate=1e-4, **network):
        super().__init__(learning_rate=learning_rate, **network)
        if attack not in ATTACKS:
            raise ValueError(f"unknown attack {attack!r}; choose one of {', '.join(ATTACKS)}")
        # The attack itself: a training step needs no check of the inputs, which are its own.
        self.attack, self.draws = ATTACKS[attack].__wrapped__, draws(attack)
        default = MADRY if attack == "pgd" else {}
        self.attack_settings = default if attack_settings is None else attack_settings
        check_settings(self.attack, self.attack_settings)
        self.with_natural = with_natural

    def training_step(self, batch, optimizers):
        """min_θ max_x̃ CE(f(x̃), y) (Madry et al., Eq. 2.1); `natural` (B,C,S,S), `label` (B,)."""
        x, y = self.images(batch), batch["label"]
        # A fresh random start in each step, drawn from the generator that the epoch has seeded.
        seed = {"seed": int(torch.randint(2**31, ()))} if self.draws else {}
        with attackable(self.network):
            x_adv = self.attack(self.network, x, y, targeted=False, **self.attack_settings, **seed)
        parts = {"adversarial_risk": x_adv} | ({"natural_risk": x} if self.with_natural else {})
        # One pass for both, so that BatchNorm sees them together.
        logits = self.network(torch.cat(list(parts.values()))).chunk(len(parts))
        risks = {name: F.cross_entropy(part, y) for name, part in zip(parts, logits, strict=True)}
        self.descend(sum(risks.values()) / len(risks), optimizers)
        return {name: risk.detach() for name, risk in risks.items()}


def check_settings(attack, settings):
    """ValueError unless the attack function takes `settings`: before a training that could not make a step."""
    try:
        inspect.signature(attack).bind("model", "x", "y", targeted=False, **settings)
    except TypeError as error:
        raise ValueError(f"attack_settings of {attack.__name__}: {error}") from None
