"""Training on full adversarial examples: those of the whole pipeline, made anew in each step (JATP, Section 2.2)."""

import torch
from torch import nn

from helpers.attacks import attackable
from helpers.attacks.pgd import pgd


class FullAdversarial(nn.Module):
    """A denoising method, trained on adversarial examples of target ∘ denoiser instead of the bare target's.

    method: any denoiser that learns from `natural` and `adversarial`, with its own losses (APE-GAN, HGD, NRP).
    target: the classifier; frozen, and not part of this module.  attack: settings of `helpers.attacks.pgd`.
    """

    def __init__(self, method, target=None, **attack):
        super().__init__()
        self.method, self.attack = method, attack
        # A plain attribute: a submodule would be saved, trained and switched to train mode.
        object.__setattr__(self, "target", target)

    def forward(self, x):
        return self.method(x)

    def optimizers(self):
        return self.method.optimizers()

    def training_step(self, batch, optimizers):
        """x̃* = argmax 𝟙(T(P(x̃)) ≠ y) in the ball around x (Eq. 3), then the method's own step; `natural`, `label`."""
        from helpers.threats import Defended

        x, y = batch["natural"], batch["label"]
        pipeline = Defended(self.target, self.method)
        with attackable(pipeline):
            x_adv = pgd(pipeline, x, y, targeted=False, seed=int(torch.randint(2**31, ())), **self.attack)
        return self.method.training_step(batch | {"adversarial": x_adv[:, None]}, optimizers)
