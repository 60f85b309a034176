"""Plain training of a classifier, on natural images or on whatever a batch holds: the targets, and ADD-re."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers.networks import build
from helpers.training import crop_and_flip

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "sgd": lambda parameters, rate, **settings: torch.optim.SGD(parameters, rate, momentum=0.9, **settings),
}


class Classifier(nn.Module):
    """A network trained on labelled images: (N,C,S,S) in [0,1] -> (N,num_classes) logits.

    network: a name of `helpers.networks`; width, in_channels, num_classes: see `helpers.networks.build`.
    augment: train on random crops and mirror images.
    optimizer: "adam", or "sgd" with a momentum of 0.9; weight_decay: of either.
    schedule: of the learning rate, by whole epochs.  None: constant.  Fractions of the training, such as
        [0.75, 0.9]: divided by 10 after each.  "cyclic": straight up to `learning_rate` over the first 40 % of
        the training and down to nothing at its end; each epoch has the rate of its middle.
    Raises ValueError for an unknown optimizer or schedule.
    """

    def __init__(
        self, network="lenet5", width=1.0, in_channels=1, num_classes=10, learning_rate=1e-3, augment=False,
        optimizer="adam", weight_decay=0.0, schedule=None,
    ):  # fmt: skip
        super().__init__()
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
        fractions = isinstance(schedule, list | tuple) and all(0 < fraction < 1 for fraction in schedule)
        if not (schedule is None or schedule == "cyclic" or fractions):
            raise ValueError(f"schedule is None, 'cyclic' or fractions between 0 and 1, got {schedule!r}")
        self.network = build(network, num_classes, width, in_channels)
        self.learning_rate, self.augment = learning_rate, augment
        self.optimizer, self.weight_decay, self.schedule = optimizer, weight_decay, schedule

    def forward(self, x):
        return self.network(x)

    @property
    def deployed(self):
        """What is used as a target once it is trained: here the network alone, with the names of its layers."""
        return self.network

    def optimizers(self):
        make = OPTIMIZERS[self.optimizer]
        return {"network": make(self.network.parameters(), self.learning_rate, weight_decay=self.weight_decay)}

    def schedulers(self, optimizers, epochs):
        def factor(epoch):
            if self.schedule == "cyclic":
                middle = (epoch + 0.5) / epochs
                return min(middle / 0.4, (1 - middle) / 0.6)
            return 0.1 ** sum(epoch / epochs >= fraction for fraction in self.schedule)

        return [torch.optim.lr_scheduler.LambdaLR(o, factor) for o in optimizers.values()] if self.schedule else []

    def training_step(self, batch, optimizers):
        """min_θ CE(f(x), y): `natural` (B,C,S,S), `label` (B,)."""
        loss = F.cross_entropy(self(self.images(batch)), batch["label"])
        self.descend(loss, optimizers)
        return {"risk": loss.detach()}

    def images(self, batch):
        """The batch's natural images, cropped and mirrored at random with `augment`; (B,C,S,S)."""
        return crop_and_flip(batch["natural"]) if self.augment else batch["natural"]

    def descend(self, loss, optimizers):
        self.zero_grad(set_to_none=True)
        loss.backward()
        optimizers["network"].step()
