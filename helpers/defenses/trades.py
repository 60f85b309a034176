"""TRADES (Zhang et al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019)."""

import torch
from torch.nn import functional as F

from helpers.attacks import attackable
from helpers.attacks.pgd import ascend, in_format_of, pgd
from helpers.defenses.adversarial_training import check_settings
from helpers.defenses.classifier import Classifier

# The training attack of JATP's targets (Section 4.1), in units of the [0,1] image.
INNER = {"eps": 8 / 255, "steps": 10, "step_size": 0.007}


class Trades(Classifier):
    """A classifier that is right about x, and says the same all around it: (N,C,S,S) in [0,1] -> logits.

    weight: λ of JATP, 1/λ of the paper: how much the second counts.
    attack_settings: eps, steps and step_size of the inner ascent.
    network: as in `Classifier`.  Raises ValueError for settings that the ascent does not take.

    A training step costs, forward and backward, the steps of the ascent and two more passes, and one forward.
    """

    def __init__(self, weight=6.0, attack_settings=INNER, **network):
        super().__init__(**network)
        check_settings(pgd, attack_settings)
        self.weight, self.attack_settings = weight, attack_settings

    def training_step(self, batch, optimizers):
        """min_θ CE(f(x), y) + λ max_x̃ KL(f(x) ‖ f(x̃)) (Algorithm 1); `natural` (B,C,S,S), `label` (B,)."""
        x, y = self.images(batch), batch["label"]
        x_adv = self.attacked(x)
        natural, adversarial = self.network(x).float(), self.network(x_adv).float()
        risk = F.cross_entropy(natural, y)
        divergence = kl(natural, adversarial).mean()
        self.descend(risk + self.weight * divergence, optimizers)
        return {"natural_risk": risk.detach(), "divergence": divergence.detach()}

    def attacked(self, x):
        """argmax_x̃ KL(f(x) ‖ f(x̃)) in the ball around x (N,C,S,S), of the same shape."""
        with attackable(self.network):
            x = in_format_of(self.network, x)
            with torch.no_grad():
                natural = self.network(x).float()
            # The divergence is smallest at x itself: without noise the ascent would not leave it.
            start = (x + 0.001 * torch.randn_like(x)).clamp_(0, 1)
            return ascend(
                lambda x_adv: kl(natural, self.network(x_adv).float()).sum(),
                x, start=start, **self.attack_settings,
            )  # fmt: skip


def kl(logits, other):
    """Σ_k p_k log(p_k/q_k) of the probabilities p, q that two sets of logits stand for; (N,K), (N,K) -> (N,)."""
    log_p, log_q = F.log_softmax(logits, 1), F.log_softmax(other, 1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
