"""MART: misclassification-aware adversarial training (Wang et al., ICLR 2020)."""

import torch

from helpers.attacks import attackable
from helpers.attacks.pgd import pgd
from helpers.defenses.adversarial_training import check_settings
from helpers.defenses.classifier import Classifier
from helpers.defenses.trades import INNER, kl
from helpers.losses import boosted_cross_entropy


class Mart(Classifier):
    """A classifier right about x̃, and steady most of all where it is wrong: (N,C,S,S) in [0,1] -> logits.

    weight: λ, how much steadiness counts.  attack_settings: those of `helpers.attacks.pgd` on the cross-entropy.
    network: as in `Classifier`.  Raises ValueError for settings that PGD does not take.

    A training step costs, forward and backward, the steps of the attack and two more passes.
    """

    def __init__(self, weight=6.0, attack_settings=INNER, **network):
        super().__init__(**network)
        check_settings(pgd, attack_settings)
        self.weight, self.attack_settings = weight, attack_settings

    def training_step(self, batch, optimizers):
        """min_θ BCE(f(x̃), y) + λ KL(f(x) ‖ f(x̃))·(1 − p_y(x)); `natural` (B,C,S,S), `label` (B,)."""
        x, y = self.images(batch), batch["label"]
        with attackable(self.network):
            seed = int(torch.randint(2**31, ()))  # from the generator that the epoch has seeded
            x_adv = pgd(self.network, x, y, targeted=False, seed=seed, **self.attack_settings)
        natural, adversarial = self.network(x).float(), self.network(x_adv).float()
        # −log p_y(x̃) − log(1 − max_{k≠y} p_k(x̃))
        boosted = boosted_cross_entropy(adversarial, y).mean()
        # The gradient flows through all three: through the natural image's probabilities too.
        doubt = 1 - natural.softmax(1).gather(1, y[:, None]).squeeze(1)
        divergence = (kl(natural, adversarial) * doubt).mean()
        self.descend(boosted + self.weight * divergence, optimizers)
        return {"boosted_risk": boosted.detach(), "divergence": divergence.detach()}
