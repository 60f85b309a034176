"""JATP: Joint Adversarial Training based Pre-processing (Zhou et al. 2021), equation by equation."""

import copy
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional as F

from helpers.attacks import attackable
from helpers.attacks.representation import feature_pgd
from helpers.losses import boosted_cross_entropy, feature_similarity
from helpers.networks import build
from helpers.networks.features import features_at
from helpers.training import crop_and_flip

TERMS = ("pix", "bce", "fsm")  # what Fig. 4(b) leaves out, one at a time


class JATP(nn.Module):
    """The denoiser P trained on adversarial examples of the whole pipeline T∘P; (N,C,S,S) in [0,1] -> the same.

    target: the classifier T; frozen, and not part of this module, so that it need not be given to load
        a trained denoiser.
    layer: T's layer of f* and t*, a name of its `named_modules()`.  "The last convolution layer in the third basic
        block" (Section 3.1) is read as the third of ResNet-18's eight blocks.
    alpha, beta: weights of the feature similarity (Eq. 9) and of the pixel loss (Eq. 10).
    eps, step_size, steps: the training attack.  The paper does not say how many steps; ten are those of its targets.
    Eq. 6, "a L2 loss", is the mean square over the pixels, as Eq. 8 is over the features.  Its printed form, a norm
        without a square, makes training diverge within a few steps at the published learning rate.
    without: terms of the loss to leave out, of `TERMS` (Fig. 4(b)).
    joint: JATP′, a copy of the target is trained along, and kept as `joint_target` (Section 4.2).  The paper does not
        say how; here by the same loss and the same optimizer.
    width, blocks: the denoiser is NRP's, of three basic blocks.  augment: random crops and mirror images.
    Raises ValueError for an unknown term, or `joint` without a target.
    """

    def __init__(
        self, target=None, layer="blocks.2.conv2", alpha=5.0, beta=3.0, eps=8 / 255, step_size=0.01, steps=10,
        without=(), joint=False, width=1.0, blocks=3, in_channels=3, learning_rate=0.01, augment=True,
    ):  # fmt: skip
        super().__init__()
        if unknown := set(without) - set(TERMS):
            raise ValueError(f"unknown terms {sorted(unknown)} in `without`; choose from {', '.join(TERMS)}")
        if joint and target is None:
            raise ValueError("joint=True trains the target along: give it")
        self.denoiser = build("nrp_purifier", width=width, blocks=blocks, in_channels=in_channels)
        self.joint_target = copy.deepcopy(target).requires_grad_() if joint else None
        # A plain attribute: a submodule would be saved, trained and switched to train mode.
        object.__setattr__(self, "target", target)
        self.layer, self.alpha, self.beta, self.without = layer, alpha, beta, set(without)
        self.attack = {"eps": eps, "step_size": step_size, "steps": steps}
        self.learning_rate, self.augment = learning_rate, augment

    def forward(self, x):
        return self.denoiser(x)

    def optimizers(self):
        parts = [self.denoiser] + ([self.joint_target] if self.joint_target is not None else [])
        parameters = [p for part in parts for p in part.parameters()]
        return {"sgd": torch.optim.SGD(parameters, self.learning_rate, momentum=0.9, weight_decay=2e-4)}

    def schedulers(self, optimizers, epochs):
        """A tenth of the learning rate after the 15th, and again after the 25th of 30 epochs."""
        milestones = [epochs * 15 // 30, epochs * 25 // 30]
        return [torch.optim.lr_scheduler.MultiStepLR(optimizers["sgd"], milestones)]

    def full_model(self):
        """F = T∘P as a module with parts `target` and `denoiser`."""
        from helpers.threats import Defended

        return Defended(self.target if self.joint_target is None else self.joint_target, self.denoiser)

    def full_adversarial(self, x, y):
        """Eq. 5: x̃* = argmax d(f*(x̃), f*(x)) in the ball around x, d the squared ℓ2 distance; no labels are used."""
        model = self.full_model()
        with attackable(model):
            seed = int(torch.randint(2**31, ()))  # a fresh random start, from the generator that the epoch has seeded
            return feature_pgd(model, x, y, targeted=False, layer=f"target.{self.layer}", seed=seed, **self.attack)

    def losses(self, x_adv, x, y):
        """The terms of Eq. 6, 7 and 9, means over the batch, as {"pix", "bce", "fsm"}."""
        restored = self.denoiser(torch.cat([x_adv, x]))
        target = self.full_model().target
        frozen = attackable(target) if self.joint_target is None else nullcontext()
        with frozen, features_at(target, self.layer) as see:
            logits, features = see(restored)
        adversarial, natural = logits.float().chunk(2)
        right = natural.softmax(1).gather(1, y[:, None]).squeeze(1)  # t_y(p(x)); 1 − t_y: misclassified, softly
        return {
            "pix": F.mse_loss(restored.chunk(2)[0].float(), x),  # Eq. 6
            "bce": boosted_cross_entropy(adversarial, y).mean(),  # Eq. 7
            "fsm": (feature_similarity(*features.chunk(2)) * (1 - right)).mean(),  # Eq. 8, weighed as in Eq. 9
        }

    def overall(self, losses):
        """Eq. 9 and 10: L = L_BCE + α·L_FSM·(1 − t_y) + β·L_pix."""
        weights = {"bce": 1.0, "fsm": self.alpha, "pix": self.beta}
        return sum(weights[term] * losses[term] for term in weights if term not in self.without)

    def training_step(self, batch, optimizers):
        """Algorithm 1, lines 3–6; `natural` (B,C,S,S), `label` (B,)."""
        x, y = batch["natural"], batch["label"]
        if self.augment:
            x = crop_and_flip(x)
        x_adv = self.full_adversarial(x, y)
        losses = self.losses(x_adv, x, y)
        loss = self.overall(losses)
        self.zero_grad(set_to_none=True)
        loss.backward()
        optimizers["sgd"].step()
        return {name: value.detach() for name, value in losses.items()} | {"overall": loss.detach()}


@torch.no_grad()
def adversarial_risk(full_model, x_adv, x, y):
    """The risk of Eq. 4 on these images, part by part: (1) and (2) are shares in [0,1], the risk is their sum.

    "adversarial": 𝟙(F(x̃) ≠ y).  "misclassified": 𝟙(F(x) ≠ F(x̃))·𝟙(F(x) ≠ y).  -> {name: float}
    """
    adversarial, natural = full_model(x_adv).argmax(1), full_model(x).argmax(1)
    parts = {"adversarial": adversarial != y, "misclassified": (natural != adversarial) & (natural != y)}
    return {name: part.float().mean().item() for name, part in parts.items()}
