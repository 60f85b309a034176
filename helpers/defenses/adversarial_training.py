"""PGD adversarial training of the target (Madry et al., ICLR 2018): the baseline AT_PGD."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers.attacks import attackable
from helpers.attacks.pgd import pgd
from helpers.networks import build


class AdversarialTraining(nn.Module):
    """A classifier trained on PGD examples of itself: (N,C,S,S) in [0,1] -> (N,10) logits.

    network: a name of `helpers.networks`.  eps, steps, step_size: the inner ℓ∞ attack.
    """

    def __init__(self, network="lenet5", width=1.0, in_channels=1, eps=0.3, steps=40, step_size=0.01, learning_rate=1e-4):
        super().__init__()
        self.network = build(network, width=width, in_channels=in_channels)
        self.attack = dict(eps=eps, steps=steps, step_size=step_size)
        self.learning_rate = learning_rate

    def forward(self, x):
        return self.network(x)

    def optimizers(self):
        return {"network": torch.optim.Adam(self.network.parameters(), self.learning_rate)}

    def training_step(self, batch, optimizers):
        """min_θ max_‖δ‖≤ε CE(f(x+δ), y) (Madry et al., Eq. 2.1); `natural` (B,C,S,S), `label` (B,)."""
        # A fresh random start in each step, drawn from the generator that the epoch has seeded.
        start = int(torch.randint(2**31, ()))
        with attackable(self.network):
            x_adv = pgd(self.network, batch["natural"], batch["label"], targeted=False, seed=start, **self.attack)
        loss = F.cross_entropy(self.network(x_adv), batch["label"])
        self.zero_grad(set_to_none=True)
        loss.backward()
        optimizers["network"].step()
        return {"adversarial_risk": loss.detach()}
