"""Plain training of a classifier, on natural images or on whatever a batch holds: the targets, and ADD-re."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers.networks import build
from helpers.training import crop_and_flip


class Classifier(nn.Module):
    """A network trained on labelled images: (N,C,S,S) in [0,1] -> (N,num_classes) logits.

    network: a name of `helpers.networks`; width, in_channels, num_classes: see `helpers.networks.build`.
    augment: train on random crops and mirror images.
    """

    def __init__(
        self, network="lenet5", width=1.0, in_channels=1, num_classes=10, learning_rate=1e-3, augment=False
    ):
        super().__init__()
        self.network = build(network, num_classes, width, in_channels)
        self.learning_rate, self.augment = learning_rate, augment

    def forward(self, x):
        return self.network(x)

    def optimizers(self):
        return {"network": torch.optim.Adam(self.network.parameters(), self.learning_rate)}

    def training_step(self, batch, optimizers):
        """min_θ CE(f(x), y): `natural` (B,C,S,S), `label` (B,)."""
        x = crop_and_flip(batch["natural"]) if self.augment else batch["natural"]
        loss = F.cross_entropy(self(x), batch["label"])
        self.descend(loss, optimizers)
        return {"risk": loss.detach()}

    def descend(self, loss, optimizers):
        self.zero_grad(set_to_none=True)
        loss.backward()
        optimizers["network"].step()
