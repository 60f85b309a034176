"""JATP: Joint Adversarial Training based Pre-processing (Zhou et al. 2021), equation by equation."""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from helpers.attacks import attackable
from helpers.attacks.representation import feature_pgd
from helpers.defenses.base import Denoiser, ablated, descend, detached, fresh_seed
from helpers.defenses.nrp import NRPPurifier
from helpers.losses import boosted_cross_entropy
from helpers.networks.features import features_at
from helpers.training import Optimizers, Tensors


class JATP(Denoiser):
    """The denoiser P, trained on adversarial examples of the whole pipeline T∘P; (N,C,S,S) in [0,1].

    target, augment: the classifier T, frozen; see `Denoiser`.
    full: as in `Denoiser`; learn from these, not from those of Eq. 5 (DIR, Section 4.1).
    layer: T's layer of f* and t*, a name of its `named_modules()`.  "The last convolution layer in the third
        basic block" (Section 3.1) is read as the third of ResNet-18's eight blocks.
    alpha, beta: weights of the feature similarity (Eq. 9) and of the pixel loss (Eq. 10).
    eps, step_size, steps: the training attack.  The paper does not say how many steps; ten are those of its
        targets.
    without: ablation, any of "bce", "fsm", "pix": those losses are left out (Fig. 4(b)).
    joint: JATP′, a copy of the target is trained along, and kept as `joint_target` (Section 4.2).  The
        paper does not say how; here by the same loss and the same optimizer.
    width, in_channels, blocks: as in `NRPPurifier`: the denoiser is NRP's, of three basic blocks.
    learning_rate: of SGD with a momentum of 0.9.
    Raises ValueError for an unknown term, or `joint` without a target.

    Eq. 6, "a L2 loss", is the mean square over the pixels, as Eq. 8 is over the features.  Its printed form,
    a norm without a square, makes training diverge within a few steps at the published learning rate.
    """

    learns_from = ("natural", "label")

    def __init__(
        self,
        target: nn.Module | None = None,
        full: dict | None = None,
        layer: str = "blocks.2.conv2",
        alpha: float = 5.0,
        beta: float = 3.0,
        eps: float = 8 / 255,
        step_size: float = 0.01,
        steps: int = 10,
        without: Collection[str] = (),
        joint: bool = False,
        width: float = 1.0,
        in_channels: int = 3,
        blocks: int = 3,
        learning_rate: float = 0.01,
        augment: bool = True,
    ) -> None:
        super().__init__(target, full, joint, augment)
        self.denoiser = NRPPurifier(width, in_channels, blocks)
        self.layer, self.attack = layer, {"eps": eps, "step_size": step_size, "steps": steps}
        self.weights = ablated({"bce": 1.0, "fsm": alpha, "pix": beta}, without)
        self.learning_rate = learning_rate
        self.to(memory_format=torch.channels_last)  # faster, and the same function

    def forward(self, x: Tensor) -> Tensor:
        return self.denoiser(x)

    def optimizers(self) -> Optimizers:
        # Without `joint` these are the denoiser's: the target is no part of this module.
        return {
            "sgd": torch.optim.SGD(self.parameters(), self.learning_rate, momentum=0.9, weight_decay=2e-4)
        }

    def schedulers(self, optimizers: Optimizers, epochs: int) -> list[LRScheduler]:
        """A tenth of the learning rate after the 15th, and again after the 25th of 30 epochs."""
        return [MultiStepLR(optimizers["sgd"], [epochs * 15 // 30, epochs * 25 // 30])]

    def full_adversarial(self, x: Tensor, y: Tensor) -> Tensor:
        """Eq. 5: x̃* = argmax d(f*(x̃), f*(x)) in the ball around x, d the squared ℓ2 distance."""
        layer = f"target.{self.layer}"
        with attackable(self.full_model()) as model:
            return feature_pgd(model, x, y, targeted=False, layer=layer, seed=fresh_seed(), **self.attack)

    def losses(self, x_adv: Tensor, x: Tensor, y: Tensor) -> Tensors:
        """The terms of Eq. 6, 7 and 9, means over the batch, as {"pix", "bce", "fsm"}."""
        restored = self.denoiser(torch.cat([x_adv, x]))
        with self.target_in_training() as target, features_at(target, self.layer) as see:
            logits, features = see(restored)
        adversarial, natural = logits.float().chunk(2)
        right = (
            natural.softmax(1).gather(1, y[:, None]).squeeze(1)
        )  # t_y(p(x)); 1 − t_y: misclassified, softly
        return {
            "pix": F.mse_loss(restored.chunk(2)[0].float(), x),  # Eq. 6
            "bce": boosted_cross_entropy(adversarial, y).mean(),  # Eq. 7
            "fsm": (
                feature_similarity(*features.chunk(2)) * (1 - right)
            ).mean(),  # Eq. 8, weighed as in Eq. 9
        }

    def overall(self, losses: Tensors) -> Tensor:
        """Eq. 9 and 10: L = L_BCE + α·L_FSM·(1 − t_y) + β·L_pix."""
        return sum(weight * losses[term] for term, weight in self.weights.items())

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """Algorithm 1, lines 3–6; `natural` (B,C,S,S), `label` (B,)."""
        batch = self.inputs(batch)
        x, y = batch["natural"], batch["label"]
        x_adv = self.full_adversarial(x, y) if self.full is None else self.adversarial(batch)[:, 0]
        losses = self.losses(x_adv, x, y)
        loss = self.overall(losses)
        descend(loss, optimizers["sgd"])
        return detached(losses | {"overall": loss})


def feature_similarity(a: Tensor, b: Tensor) -> Tensor:
    """FSM of each image: mean square difference of the feature maps `a` and `b`; (N,...), (N,...) -> (N,).

    Eq. 8, where it measures how *dissimilar* the features of natural and adversarial images are.
    """
    return (a - b).float().square().flatten(1).mean(1)


@torch.no_grad()
def adversarial_risk(full_model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor) -> dict[str, float]:
    """The risk of Eq. 4 on these images, part by part: (1) and (2), shares in [0,1], whose sum it is.

    full_model: F = T∘P.
    x_adv, x: full adversarial examples and their natural images (N,C,S,S).
    y: labels (N,).
    -> "adversarial": 𝟙(F(x̃) ≠ y).  "misclassified": 𝟙(F(x) ≠ F(x̃))·𝟙(F(x) ≠ y).
    """
    adversarial, natural = full_model(x_adv).argmax(1), full_model(x).argmax(1)
    parts = {"adversarial": adversarial != y, "misclassified": (natural != adversarial) & (natural != y)}
    return {name: part.float().mean().item() for name, part in parts.items()}
